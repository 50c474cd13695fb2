"""Builds and installs the package.

The native operators are built where they can be: C++ with torch importable and a compiler at hand,
CUDA as well where nvcc, a CUDA build of torch and a GPU (or ``FORCE_CUDA=1``) are there. Without
them the package works in standard PyTorch, and the build says why.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CSRC = Path("cpools_ext", "csrc")
SOURCES = sorted(str(file) for place in (CSRC, CSRC / "cpu") for file in place.glob("*.cpp"))
BUILDING = {"build", "build_ext", "bdist_wheel", "develop", "editable_wheel", "install"}
CUDA_SOURCES = ["cpools_ext/csrc/cuda/corner_pool.cu"]


def notice(text: str) -> None:
    """Tells the user; pip shows it with ``-v``."""
    print(f"cornerkit: {text}", file=sys.stderr)


def find_cuda_home() -> str | None:
    """The folder of a CUDA toolkit with nvcc and the runtime's headers, or None."""
    nvcc = shutil.which("nvcc")
    candidates = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    candidates.append(str(Path(nvcc).resolve().parent.parent) if nvcc else None)
    for home in candidates:
        needed = ("bin/nvcc", "include/cuda_runtime_api.h")
        if home and all(Path(home, file).exists() for file in needed):
            return home
    return None


def wants_cuda() -> bool:
    """Whether to build for CUDA, with a notice where it might have been expected."""
    import torch

    if torch.version.cuda is None:
        return False
    forced = os.environ.get("FORCE_CUDA", "0") == "1"
    if not forced and not torch.cuda.is_available():
        return False
    home = find_cuda_home()
    if home is None:
        notice("no CUDA operators: no CUDA toolkit (nvcc) was found; set CUDA_HOME")
        return False
    os.environ["CUDA_HOME"] = home  # read when torch.utils.cpp_extension is imported
    return True


def architectures() -> str:
    """The GPU architectures that torch builds for: the variable's, or those of the GPUs here."""
    import torch

    named = os.environ.get("TORCH_CUDA_ARCH_LIST")
    if named:
        return named
    seen = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    return ";".join(f"{major}.{minor}" for major, minor in sorted(seen)) or "torch's own list"


def openmp_flags() -> list[str]:
    """The flags that give the kernels torch's threads, none where the compiler lacks OpenMP."""
    compiler = os.environ.get("CXX", "c++")
    test = "#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }"
    command = [compiler, "-x", "c++", "-fopenmp", "-fsyntax-only", "-"]
    try:
        subprocess.run(command, input=test.encode(), capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return ["-fopenmp"]


def native_extension() -> Extension | None:
    """The extension, or None, with a notice, where torch or a compiler is missing."""
    if not BUILDING & set(sys.argv):  # metadata needs no compiler, and no second notice
        return None
    try:
        import torch  # noqa: F401
    except ImportError:
        notice(
            "no native operators: torch is not in the build environment; "
            "`pip install --no-build-isolation .` builds them"
        )
        return None
    cuda = wants_cuda()
    from torch.utils.cpp_extension import CppExtension, CUDAExtension

    openmp = openmp_flags()
    flags = {"cxx": ["-O3", "-fvisibility=hidden", *openmp]}
    macros = []
    if cuda:
        flags["nvcc"] = ["-O3"]
        macros.append(("CPOOLS_CUDA", f'"{architectures()}"'))
    # The binary holds no Python: torch.ops.load_library reads it, whatever Python runs.
    return (CUDAExtension if cuda else CppExtension)(
        "_cpools_ext",
        SOURCES + (CUDA_SOURCES if cuda else []),
        define_macros=macros,
        extra_compile_args=flags,
        extra_link_args=openmp,
        py_limited_api=True,
    )


def build_command() -> type[build_ext]:
    """torch's build_ext, made to leave a working package when a build fails."""
    from torch.utils.cpp_extension import BuildExtension

    class BuildOrDoWithout(BuildExtension):
        def run(self) -> None:
            try:
                super().run()
            except Exception as error:  # a compiler has many ways to fail
                notice(f"no native operators: their build failed: {error}")
                self.extensions = []

    return BuildOrDoWithout


extension = native_extension()
setup(
    name="cornerkit",
    version="0.1.0",
    description="Keypoint detectors in the style of CornerNet-Lite",
    python_requires=">=3.10",
    packages=[*find_packages(include=["core*", "cpools_ext*"]), "configs"],
    package_data={"configs": ["*.json"]},
    install_requires=[
        "torch>=2.8",
        "torchvision",
        "numpy",
        "opencv-python",
        "pycocotools",
        "tqdm",
    ],
    extras_require={
        "tensorboard": ["tensorboard"],
        "dev": [
            "mypy==2.4.1",
            "ninja==1.13.2",
            "pytest==9.2.0",
            "ruff==0.17.5",
            "setuptools>=68",
            "wheel",
        ],
    },
    ext_modules=[extension] if extension else [],
    cmdclass={"build_ext": build_command()} if extension else {},
    # Any Python may load the binary; the wheel's tag says so.
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if extension else {},
)
