"""CUDA sources compiled for the CPU: each launch becomes a loop over emulated blocks."""

import ctypes
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_SOURCES = _ROOT / "cpools_ext" / "csrc"


def compile_emulated(name: str, entry: str, launches: int, folder: Path) -> ctypes.CDLL:
    """Compiles a file of ``csrc/cuda`` and a C function that calls it; skips without a compiler.

    Args:
        name: the file's name.
        entry: C++ of ``extern "C"`` functions that call what the file defines.
        launches: number of the file's launches, all of which are emulated.
        folder: folder for the library.
    """
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("no C++ compiler")
    source = (_SOURCES / "cuda" / name).read_text()
    source, found = re.subn(
        r"(\w+(?:<[^<>;]*>)?)\s*<<<(.*?)>>>\(", r"emulate(\1, \2)(", source, flags=re.S
    )
    assert found == launches
    (folder / "emulated.cpp").write_text(source.replace('"../', '"') + entry)
    includes = [_ROOT / "tests" / "cuda_emulation", _SOURCES, _SOURCES / "cuda"]
    command = [compiler, "-std=c++20", "-O1", "-w", "-pthread", "-shared", "-fPIC", "emulated.cpp"]
    command += [*(f"-I{path}" for path in includes), "-o", "emulated.so"]
    subprocess.run(command, cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "emulated.so"))
