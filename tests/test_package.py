"""The package as its users get it: a wheel, installed into a new environment, used from elsewhere.

The native binary is the clone's own: a stand-in for the compiler copies it, because compiling it
anew takes most of a minute and ``tests/cpools_ext/test_build.py`` covers the build.
"""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

import core

ROOT = Path(__file__).resolve().parents[1]
NAME = "CornerNet_Squeeze-shapes"
BUILT = "core", "cpools_ext", "configs"
FILES = "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "NOTICE"

pytestmark = pytest.mark.slow  # a wheel, a new environment, and processes that import torch

# Compiles an empty source; where it links, the output is the clone's binary.
COMPILER = """#!{python}
import os, shutil, sys
arguments = sys.argv[1:]
if "-shared" in arguments:
    shutil.copyfile("{binary}", arguments[arguments.index("-o") + 1])
    sys.exit()
skipped = ("-MMD", "-MF")
kept = [word for word in arguments if word not in skipped and not word.endswith(".d")]
kept = ["/dev/null" if word.endswith(".cpp") else word for word in kept]
os.execvp("{compiler}", ["{compiler}", *(["-x", "c++"] if "-c" in kept else []), *kept])
"""
# All that the tests read, in one process, as each would import torch.
USE = """
import importlib.util, json, sys
import cornerkit
assert "torch" not in sys.modules, "import cornerkit alone must not take seconds"
import cpools_ext
from cornerkit import cli, load_detector
from cornerkit.config.files import CONFIG_DIR
from cornerkit.data.images import load_image
from cpools_ext.__main__ import main as check
name, image = sys.argv[1:]
found = load_detector(name, device="cpu")(load_image(image))
codes = [
    cli.main(["evaluate", name, "--device", "cpu"]),
    cli.main(["detect", name, image, "--device", "cpu", "--out", "drawn"]),
    check(),
]
modules = [sys.modules[name].__file__ for name in ("cornerkit", "cpools_ext")]
print(json.dumps({
    "version": cornerkit.__version__,
    "paths": [str(CONFIG_DIR), *modules],
    "counts": [len(boxes) for boxes in found.values()],
    "codes": codes,
    "core": importlib.util.find_spec("core") is not None,
}))
"""


def environment(**variables: str) -> dict[str, str]:
    """The variables of a process that must not find the clone."""
    left_out = ("PYTHONPATH", "FORCE_CUDA", "VIRTUAL_ENV")
    kept = {key: value for key, value in os.environ.items() if key not in left_out}
    return {**kept, "CUDA_VISIBLE_DEVICES": "", **variables}


def run(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done


def clone_binary() -> Path | None:
    """The native binary of the environment that runs the tests, if it has one."""
    spec = importlib.util.find_spec("_cpools_ext")
    return Path(spec.origin) if spec is not None and spec.origin else None


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    for name in BUILT:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, sources / name, ignore=ignored)
    for name in FILES:
        shutil.copyfile(ROOT / name, sources / name)
    compiler, binary = shutil.which("g++"), clone_binary()
    variables = {"CXX": "/bin/false"}
    if compiler is not None and binary is not None:
        stand_in = folder / "g++"
        text = COMPILER.format(python=sys.executable, binary=binary, compiler=compiler)
        stand_in.write_text(text)
        stand_in.chmod(0o755)
        variables = {"CXX": str(stand_in)}
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps"]
    run(*command, "-w", folder, sources, cwd=folder, **variables)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory) -> Path:
    """The ``bin`` folder of a new environment with the wheel in it.

    The packages that it depends on are those of this environment: a line of a .pth file makes them
    importable, after the wheel and without the clone, whose own .pth file is not read that way.
    """
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python"]
    run(*pip, "install", "-q", "--no-deps", "--no-index", wheel, cwd=folder)
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    own = next(folder.glob("lib/python*/site-packages"))
    (own / "dependencies.pth").write_text("\n".join(packages) + "\n")
    return folder / "bin"


@pytest.fixture(scope="module")
def trained(installed: Path, tmp_path_factory) -> Path:
    """A folder, far from the clone, in which two steps were trained."""
    folder = tmp_path_factory.mktemp("elsewhere")
    shapes = ("-m", "cornerkit.data.shapes", "data/shapes", "--train", "8", "--val", "2")
    run(installed / "python", *shapes, cwd=folder)
    settings = ("system.max_iter=2", "system.stepsize=1", "system.val_iter=0", "system.display=1")
    argv = [word for setting in settings for word in ("--set", setting)]
    run(installed / "cornerkit", "train", NAME, "--device", "cpu", *argv, cwd=folder)
    assert {path.name for path in folder.iterdir()} == {"data", "cache"}
    return folder


@pytest.fixture(scope="module")
def image(trained: Path) -> Path:
    return next((trained / "data" / "shapes" / "images" / "val").iterdir())


@pytest.fixture(scope="module")
def used(installed: Path, trained: Path, image: Path) -> subprocess.CompletedProcess[str]:
    """The end of a process that evaluated, detected and was imported, in the folder ``trained``."""
    return run(installed / "python", "-c", USE, NAME, image, cwd=trained)


def test_the_wheel_holds_the_package_and_no_other_name(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    binaries = [name for name in names if name.startswith("_cpools_ext.")]
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == {"cornerkit", "cpools_ext", *binaries}
    assert bool(binaries) == (clone_binary() is not None and shutil.which("g++") is not None)
    expected = {"cornerkit/py.typed"}
    for folder, package, pattern in (
        ("core", "cornerkit", "*.py"),
        ("core", "cornerkit", "*.html"),
        ("configs", "cornerkit/configs", "*.json"),
        ("cpools_ext", "cpools_ext", "*.py"),
    ):
        files = (ROOT / folder).rglob(pattern)
        expected |= {f"{package}/{file.relative_to(ROOT / folder).as_posix()}" for file in files}
    assert {name for name in names if ".dist-info/" not in name} == expected | set(binaries)


def test_metadata(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    folder = f"cornerkit-{core.__version__}.dist-info"
    entry_points = archive.read(f"{folder}/entry_points.txt").decode()
    assert entry_points.split() == ["[console_scripts]", "cornerkit", "=", "cornerkit.cli:main"]
    metadata = message_from_string(archive.read(f"{folder}/METADATA").decode())
    assert metadata["Name"] == "cornerkit" and metadata["Version"] == core.__version__
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata["Requires-Python"] == ">=3.10"
    assert set(metadata.get_all("Provides-Extra", [])) == {
        *("plot", "report", "tensorboard", "pretrained", "timm", "serve", "export", "dev")
    }
    needed = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert len(needed) == 6 and all(">=" in line for line in needed)
    for name in ("LICENSE", "NOTICE"):
        assert archive.read(f"{folder}/licenses/{name}").decode() == (ROOT / name).read_text()


def test_training_from_another_folder(trained: Path) -> None:
    log = trained / "cache" / "nnet" / NAME / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["iteration"] for line in lines if "loss" in line] == [1, 2]
    assert (log.parent / f"{NAME}_2.pkl").is_file()


def test_evaluating_from_another_folder(used, trained: Path) -> None:
    metrics = trained / "results" / NAME / "2" / "validation" / "metrics.json"
    assert "AP" in json.loads(metrics.read_text())


def test_detecting_from_another_folder(used, trained: Path, image: Path) -> None:
    assert [path.stem for path in (trained / "drawn").iterdir()] == [image.stem]


def test_importing_from_another_folder(used, installed: Path) -> None:
    found = json.loads(used.stdout.splitlines()[-1])
    assert found["version"] == core.__version__
    own = str(next(installed.parent.glob("lib/python*/site-packages")))
    assert all(path.startswith(own) for path in found["paths"]), found["paths"]
    assert len(found["counts"]) == 6  # classes
    assert found["codes"] == [0, 0, 0]
    assert not found["core"], "there is a module core"


def test_the_installed_operators_are_native(used, installed: Path) -> None:
    if clone_binary() is None or shutil.which("g++") is None:
        pytest.skip("the wheel has no binary")
    own = next(installed.parent.glob("lib/python*/site-packages/_cpools_ext*"))
    assert f"native operators: {own}" in used.stdout + used.stderr


def test_an_editable_installation_is_importable_from_any_folder(tmp_path: Path) -> None:
    try:
        importlib.metadata.distribution("cornerkit")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("cornerkit is not installed in this environment")
    program = "import cornerkit, cornerkit.config.files as files, importlib.util as util; "
    program += "print(cornerkit.__file__, files.CONFIG_DIR, util.find_spec('core'))"
    done = run(sys.executable, "-c", program, cwd=tmp_path)
    assert done.stdout.split() == [str(ROOT / "core/__init__.py"), str(ROOT / "configs"), "None"]
