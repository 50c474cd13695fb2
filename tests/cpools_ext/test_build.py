"""Builds that fail: setup.py says why, and builds the rest. The compilers are stand-ins."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
CPU_SOURCE = ROOT / "cpools_ext" / "csrc" / "cpu" / "corner_pool.cpp"

# Compiles as asked, with an empty source in place of the real one.
QUICK = """#!{python}
import os, sys
given = [each for each in sys.argv[1:] if each not in ("-MMD", "-MF") and not each.endswith(".d")]
given = ["/dev/null" if each.endswith(".cpp") else each for each in given]
kind = ["-x", "c++"] if "-c" in given else []
os.execvp("{compiler}", ["{compiler}", *kind, *given])
"""
FAILING = """#!/bin/sh
case "$*" in *-c*) echo "a.cpp:7:1: warning: no matter"; echo "a.cpp:8:2: error: broken on purpose"
exit 1;; esac
exec {compiler} "$@"
"""
NVCC = """#!/bin/sh
case "$*" in *--version*) echo "Cuda compilation tools, release {version}, V{version}.0"
exit;; esac
echo "nvcc fatal   : broken on purpose"
exit 1
"""
NO_TORCH = "raise ImportError('there is no torch')\n"


@pytest.fixture
def compiler() -> str:
    found = shutil.which("g++")
    if found is None:
        pytest.skip("no C++ compiler")
    return found


def script(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def build(folder: Path, **variables: str) -> tuple[list[str], list[str]]:
    """The notices of a build that does not fail, and the binaries that it made."""
    command = [sys.executable, "setup.py", "-q", "build_ext"]
    command += ["--build-lib", str(folder / "lib"), "--build-temp", str(folder / "temp")]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("CUDA_")}
    done = subprocess.run(
        command, cwd=ROOT, env={**kept, **variables}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    notices = [line for line in done.stderr.splitlines() if line.startswith("cornerkit: ")]
    return notices, [file.name for file in (folder / "lib").glob("_cpools_ext*")]


def test_a_failed_build_says_why(tmp_path: Path, compiler: str) -> None:
    failing = script(tmp_path / "g++", FAILING.format(compiler=compiler))
    notices, binaries = build(tmp_path, CXX=failing, CUDA_VISIBLE_DEVICES="")
    assert notices[-1] == (
        "cornerkit: no native operators: their build failed: a.cpp:8:2: error: broken on purpose"
    )
    assert not binaries


@pytest.mark.slow
@pytest.mark.skipif(torch.version.cuda is None, reason="a torch without CUDA")
def test_without_its_cuda_part_the_rest_is_built(tmp_path: Path, compiler: str) -> None:
    quick = script(tmp_path / "g++", QUICK.format(python=sys.executable, compiler=compiler))
    home = tmp_path / "cuda"
    script(home / "bin" / "nvcc", NVCC.format(version=torch.version.cuda))
    script(home / "include" / "cuda_runtime_api.h", "")
    notices, binaries = build(tmp_path, CXX=quick, CUDA_HOME=str(home), FORCE_CUDA="1")
    assert notices == [
        "cornerkit: no CUDA operators: their build failed: nvcc fatal   : broken on purpose"
    ]
    assert len(binaries) == 1


@pytest.mark.slow
@pytest.mark.skipif(torch.version.cuda is None, reason="a torch without CUDA")
def test_an_nvcc_of_another_cuda_is_named_in_a_sentence(tmp_path: Path, compiler: str) -> None:
    quick = script(tmp_path / "g++", QUICK.format(python=sys.executable, compiler=compiler))
    home = tmp_path / "cuda"
    script(home / "bin" / "nvcc", NVCC.format(version="9.0"))
    script(home / "include" / "cuda_runtime_api.h", "")
    notices, binaries = build(tmp_path, CXX=quick, CUDA_HOME=str(home), FORCE_CUDA="1")
    assert "9.0" in " ".join(notices) and "%s" not in " ".join(notices)
    assert len(binaries) == 1


@pytest.mark.parametrize(
    "cuda, variables, reason",
    [
        (None, {"FORCE_CUDA": "1"}, "this torch is built without CUDA"),
        (None, {}, None),
        ("13.0", {}, "no GPU was found; FORCE_CUDA=1 builds them anyway"),
        ("13.0", {"FORCE_CUDA": "1"}, "no CUDA toolkit (nvcc) was found; set CUDA_HOME"),
    ],
)
def test_a_notice_says_why_cuda_is_not_built(
    cuda: str | None, variables: dict[str, str], reason: str | None, tmp_path: Path
) -> None:
    """`wants_cuda` with a stand-in for torch, and nvcc where the notice is about the GPU."""
    nvcc = reason is not None and "GPU" in reason
    program = f"""
import os, runpy, sys, types
torch = types.SimpleNamespace(
    version=types.SimpleNamespace(cuda={cuda!r}), cuda=types.SimpleNamespace(is_available=bool))
sys.argv = ["setup.py", "--version"]
names = runpy.run_path("setup.py")
sys.modules["torch"] = torch
names["wants_cuda"].__globals__["find_cuda_home"] = lambda: {"/cuda" if nvcc else None!r}
assert not names["wants_cuda"]()
"""
    environment = {key: value for key, value in os.environ.items() if key != "FORCE_CUDA"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**environment, **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    expected = f"cornerkit: no CUDA operators: {reason}\n" if reason else ""
    assert done.stderr == expected


def test_without_a_gpu_and_a_list_torch_names_the_architectures() -> None:
    program = """
import os, runpy, sys, types
torch = types.SimpleNamespace(
    _C=types.SimpleNamespace(_cuda_getArchFlags=lambda: "sm_75 sm_90 sm_90a sm_120 compute_120"),
    cuda=types.SimpleNamespace(is_available=bool))
sys.argv = ["setup.py", "--version"]
name_architectures = runpy.run_path("setup.py")["name_architectures"]
sys.modules["torch"] = torch
for given in "", "8.6":
    os.environ["TORCH_CUDA_ARCH_LIST"] = given
    name_architectures()
    print(os.environ["TORCH_CUDA_ARCH_LIST"])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-2:] == ["7.5;9.0;12.0+PTX", "8.6"], done.stderr


def test_without_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(NO_TORCH)
    notices, binaries = build(tmp_path, PYTHONPATH=str(tmp_path))
    assert len(notices) == 1 and "torch is not in the build environment" in notices[0]
    assert "--no-build-isolation" in notices[0] and not binaries


def test_an_old_gcc_says_which_compiler_to_use(compiler: str) -> None:
    command = [compiler, "-E", "-Wfatal-errors", "-U__GNUC__", "-D__GNUC__=11", str(CPU_SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0 and "GCC 12 or newer, or Clang" in done.stderr
