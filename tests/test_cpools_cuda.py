"""The CUDA kernels: compiled where nvcc is, run where a GPU is, emulated everywhere."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cpools_ext import DIRECTIONS, corner_pool, native, reference

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "cpools_ext" / "csrc"
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]

# [outer, length, inner]; inner 1 takes the kernels for lines, the others those for columns.
SCANS = [
    (3, 128, 1),
    (35, 64, 1),
    (2, 33, 1),
    (2, 300, 1),
    (1, 1, 1),
    (5, 8, 1),
    (3, 13, 5),
    (2, 70, 33),
    (1, 128, 64),
    (7, 1, 3),
]
LONG_SCANS = [(2, 400, 1), (2, 400, 3)]  # more than shared memory holds

ENTRY = """
extern "C" void forward(
    int element, int64_t outer, int64_t length, int64_t inner, bool reverse, const void* input,
    void* output, uint8_t* record, const void* addend) {
  const cpools::Scan scan{static_cast<cpools::Element>(element), outer, length, inner, reverse};
  cpools::cuda::forward(scan, input, output, record, addend, nullptr);
}
extern "C" void backward(
    int element, int64_t outer, int64_t length, int64_t inner, bool reverse, const void* grad,
    const uint8_t* record, void* grad_input) {
  const cpools::Scan scan{static_cast<cpools::Element>(element), outer, length, inner, reverse};
  std::vector<char> scratch(cpools::cuda::scratch_bytes(scan));
  cpools::cuda::backward(
      scan, grad, record, grad_input, scratch.empty() ? nullptr : scratch.data(), nullptr);
}
"""


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """corner_pool.cu, compiled for the CPU: each launch becomes a loop over emulated blocks."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("emulation")
    source = (SOURCES / "cuda" / "corner_pool.cu").read_text()
    source, launches = re.subn(
        r"([a-z_]+<[^<>;]*>)\s*<<<(.*?)>>>\(", r"emulate(\1, \2)(", source, flags=re.S
    )
    assert launches >= 4
    (folder / "emulated.cpp").write_text(source.replace("../scan.h", "scan.h") + ENTRY)
    includes = [Path(__file__).parent / "cuda_emulation", SOURCES, SOURCES / "cuda"]
    command = [compiler, "-std=c++20", "-O1", "-w", "-pthread", "-shared", "-fPIC", "emulated.cpp"]
    command += [*(f"-I{path}" for path in includes), "-o", "emulated.so"]
    subprocess.run(command, cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "emulated.so"))
    sizes = [ctypes.c_int, *[ctypes.c_int64] * 3, ctypes.c_bool]
    library.forward.argtypes = [*sizes, *[ctypes.c_void_p] * 4]
    library.backward.argtypes = [*sizes, *[ctypes.c_void_p] * 3]
    return library


def run_emulated(
    library: ctypes.CDLL, x: Tensor, grad: Tensor, reverse: bool, addend: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Maxima, record and gradient of contiguous [outer, length, inner]."""
    outer, length, inner = x.shape
    scan = (DTYPES.index(x.dtype), outer, length, inner, reverse)
    maxima, grad_input = torch.full_like(x, 77), torch.full_like(x, 77)
    record = torch.full((outer, (length + 7) // 8, inner), 255, dtype=torch.uint8)
    pointer = None if addend is None else addend.data_ptr()
    library.forward(*scan, x.data_ptr(), maxima.data_ptr(), record.data_ptr(), pointer)
    library.backward(*scan, grad.data_ptr(), record.data_ptr(), grad_input.data_ptr())
    return maxima, record, grad_input


def random_values(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Many ties, infinities and a few NaN."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-3, 4, shape, generator=generator).double() / 4
    rare = torch.rand(shape, generator=generator)
    values[rare < 0.02] = float("inf")
    values[rare > 0.95] = -float("inf")
    values[(rare > 0.5) & (rare < 0.505)] = float("nan")
    return values.to(dtype)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_emulated_kernels(emulated: ctypes.CDLL, dtype: torch.dtype, reverse: bool) -> None:
    scans = SCANS + (LONG_SCANS if dtype == torch.float32 else [])
    for seed, shape in enumerate(scans):
        x = random_values(shape, dtype, seed)
        grad = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
        maxima, record, grad_input = run_emulated(emulated, x, grad, reverse)
        expected, expected_record = reference.corner_pool(x, 1, reverse)
        assert torch.equal(record, expected_record), shape
        assert torch.equal(maxima.nan_to_num(5), expected.nan_to_num(5)), shape
        expected = reference.corner_pool_backward(grad, record, 1, reverse)
        assert torch.equal(grad_input, expected), shape  # sums in scan order, to the last bit


def test_emulated_addend(emulated: ctypes.CDLL) -> None:
    x, addend = torch.randn(2, 37, 5), torch.randn(2, 37, 5)
    summed = run_emulated(emulated, x, x, True, addend)[0]
    assert torch.equal(summed, reference.corner_pool(x, 1, True)[0] + addend)


@pytest.mark.slow
def test_compiles_for_cuda(tmp_path: Path) -> None:
    """sm_80, sm_90 and PTX, as setup.py builds it with FORCE_CUDA=1 and no GPU."""
    if shutil.which("nvcc") is None or torch.version.cuda is None:
        pytest.skip("no nvcc, or a torch without CUDA")
    command = [sys.executable, "setup.py", "-q", "build_ext"]
    command += ["--build-lib", str(tmp_path / "lib"), "--build-temp", str(tmp_path / "temp")]
    variables = {"FORCE_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "8.0;9.0+PTX"}
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (binary,) = (tmp_path / "lib").glob("_cpools_ext*")
    assert b"sm_80" in binary.read_bytes() and b"sm_90" in binary.read_bytes()


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("layout", [torch.clone, channels_last, lambda x: x.mT.contiguous().mT])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_cuda_device(
    direction: str, dtype: torch.dtype, layout: Callable[[Tensor], Tensor]
) -> None:
    if native.load() is not None or not native.has_kernel("cuda"):
        pytest.skip("the binary was built without CUDA")
    dim, reverse = DIRECTIONS[direction]
    for shape in [(2, 3, 7, 9), (4, 16, 128, 128), (1, 5, 500, 3), (2, 2, 3, 700), (1, 1, 1, 1)]:
        x = layout(random_values(shape, dtype, 1))
        grad = layout(torch.randn(shape).to(dtype))
        expected, record = reference.corner_pool(x, dim, reverse)
        leaf = x.cuda().requires_grad_()
        maxima = corner_pool(leaf, direction)
        maxima.backward(grad.cuda())
        assert torch.equal(maxima.detach().cpu().nan_to_num(5), expected.nan_to_num(5))
        assert leaf.grad is not None
        expected = reference.corner_pool_backward(grad, record, dim, reverse)
        assert torch.equal(leaf.grad.cpu(), expected)
