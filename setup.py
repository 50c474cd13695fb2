"""Builds the native operators; everything else about the package is in ``pyproject.toml``.

The C++ operators need torch and a compiler; the CUDA operators also need nvcc, a CUDA build of
torch, and a GPU or ``FORCE_CUDA=1``. A part that does not build is left out, and a notice says why:
without CUDA operators those in C++ remain, and without any the package runs in standard PyTorch.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CSRC = Path("cpools_ext", "csrc")
SOURCES = sorted(str(file) for place in (CSRC, CSRC / "cpu") for file in place.glob("*.cpp"))
BUILDING = {"build", "build_ext", "bdist_wheel", "develop", "editable_wheel", "install"}
CUDA_SOURCES = [f"cpools_ext/csrc/cuda/{name}.cu" for name in ("corner_pool", "corners", "peaks")]


def notice(text: str) -> None:
    """Prints a line for the user; pip shows it with ``-v``."""
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
    """True if CUDA operators are to be built; if not, a notice says why where one expects them."""
    import torch

    forced, home = os.environ.get("FORCE_CUDA", "0") == "1", find_cuda_home()
    if torch.version.cuda is None:
        missing = "this torch is built without CUDA"
    elif home is None:
        missing = "no CUDA toolkit (nvcc) was found; set CUDA_HOME"
    elif not forced and not torch.cuda.is_available():
        missing = "no GPU was found; FORCE_CUDA=1 builds them anyway"
    else:
        os.environ["CUDA_HOME"] = home  # read when torch.utils.cpp_extension is imported
        return True
    if forced or home is not None or torch.cuda.is_available():
        notice(f"no CUDA operators: {missing}")
    return False


def name_architectures() -> None:
    """Sets the GPU architectures to those of torch itself where neither user nor GPU names them."""
    import torch

    if not os.environ.get("TORCH_CUDA_ARCH_LIST") and not torch.cuda.is_available():
        own = re.findall(r"\bsm_(\d+)(\d)\b", torch._C._cuda_getArchFlags())
        os.environ["TORCH_CUDA_ARCH_LIST"] = ";".join(map(".".join, own)) + "+PTX"


def openmp_flags() -> list[str]:
    """The flags with which kernels use torch's threads; none if the compiler lacks OpenMP."""
    compiler = os.environ.get("CXX", "c++")
    test = "#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }"
    command = [compiler, "-x", "c++", "-fopenmp", "-fsyntax-only", "-"]
    try:
        subprocess.run(command, input=test.encode(), capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return ["-fopenmp"]


def make_extension(cuda: bool) -> Extension:
    """The extension, with or without the CUDA operators."""
    from torch.utils.cpp_extension import CppExtension, CUDAExtension

    openmp = openmp_flags()
    flags = {"cxx": ["-O3", "-fvisibility=hidden", *openmp], **({"nvcc": ["-O3"]} if cuda else {})}
    # The binary contains no Python code: torch.ops.load_library loads it in any version of Python.
    return (CUDAExtension if cuda else CppExtension)(
        "_cpools_ext",
        SOURCES + (CUDA_SOURCES if cuda else []),
        define_macros=[("CPOOLS_CUDA", None)] if cuda else [],
        extra_compile_args=flags,
        extra_link_args=openmp,
        py_limited_api=True,
    )


def native_extensions() -> dict[str, Extension]:
    """Extensions to try in turn, by what a failure loses; none, and a notice, without torch."""
    if not BUILDING & set(sys.argv):  # metadata needs no compiler, and no second notice
        return {}
    try:
        import torch  # noqa: F401
    except ImportError:
        notice(
            "no native operators: torch is not in the build environment; "
            "`pip install --no-build-isolation .` builds them"
        )
        return {}
    attempts = {}
    if wants_cuda():
        name_architectures()
        attempts["CUDA operators"] = make_extension(cuda=True)
    return {**attempts, "native operators": make_extension(cuda=False)}


def failure_of(build: Callable[[], None]) -> str | None:
    """Runs a build, and prints the compilers' output when it ends.

    Returns:
        The reason of a failure, a compiler's first error if there is one; None after a success.
    """
    reason, kept = None, (os.dup(1), os.dup(2))
    with tempfile.TemporaryFile() as log:  # ninja's compilers write to the descriptors
        try:
            sys.stdout.flush(), sys.stderr.flush()
            os.dup2(log.fileno(), 1), os.dup2(log.fileno(), 2)
            build()
        except Exception as failure:  # a compiler has many ways to fail
            message, *values = failure.args or [""]
            formatted = isinstance(message, str) and len(values) > 0  # torch leaves some to us
            reason = message % tuple(values) if formatted else str(failure)
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os.dup2(kept[0], 1), os.dup2(kept[1], 2)
            os.close(kept[0]), os.close(kept[1])
        log.seek(0)
        text = log.read().decode(errors="replace")
    print(text, end="")
    error = re.search(r"^.*\b(error|fatal) *:.*$", text, re.MULTILINE)
    return error.group().strip() if reason is not None and error else reason


def build_command(attempts: dict[str, Extension]) -> type[build_ext]:
    """Makes torch's build_ext leave a working package when a build fails."""
    from torch.utils.cpp_extension import BuildExtension

    class BuildOrDoWithout(BuildExtension):
        def run(self) -> None:
            asked = self.inplace, self.compiler
            for lost, extension in attempts.items():
                self.inplace, self.compiler = asked  # a failed run leaves them changed
                vars(self.extensions[0]).update(vars(extension))
                reason = failure_of(super().run)
                if reason is None:
                    return
                notice(f"no {lost}: their build failed: {reason}")
            self.extensions = []

    return BuildOrDoWithout


extensions = native_extensions()
setup(
    ext_modules=list(extensions.values())[:1],
    cmdclass={"build_ext": build_command(extensions)} if extensions else {},
    # The wheel's tag: any Python from 3.10 on can load the binary.
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if extensions else {},
)
