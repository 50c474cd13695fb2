"""The CUDA kernels: compiled where nvcc is, emulated everywhere."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cpools_ext import reference
from tests.support.cpools_devices import DTYPES, assert_gradient, random_values
from tests.support.cuda_emulation import compile_emulated

ROOT = Path(__file__).resolve().parents[2]

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
LONG_SCANS = [(2, 400, 1), (2, 400, 3)]

ENTRY = """
using cpools::Corner, cpools::Element, cpools::Scan;
Corner corner_of(
    int element, int64_t planes, int64_t height, int64_t width, int64_t channels, bool reverse,
    uint8_t* vertical_record, uint8_t* horizontal_record) {
  const auto type = static_cast<Element>(element);
  return {{type, planes, height, width * channels, reverse},
          {type, planes * height, width, channels, reverse}, vertical_record, horizontal_record};
}
extern "C" void forward(
    int element, int64_t outer, int64_t length, int64_t inner, bool reverse, const void* input,
    void* output, uint8_t* record) {
  const Scan scan{static_cast<Element>(element), outer, length, inner, reverse};
  cpools::cuda::forward(scan, input, output, record, nullptr);
}
extern "C" void backward(
    int element, int64_t outer, int64_t length, int64_t inner, bool reverse, const void* grad,
    const uint8_t* record, void* grad_input) {
  const Scan scan{static_cast<Element>(element), outer, length, inner, reverse};
  cpools::cuda::backward(scan, grad, record, grad_input, nullptr);
}
extern "C" void forward_sum(
    int element, int64_t planes, int64_t height, int64_t width, int64_t channels, bool reverse,
    uint8_t* vertical_record, uint8_t* horizontal_record, const void* vertical,
    const void* horizontal, void* output) {
  const Corner corner = corner_of(
      element, planes, height, width, channels, reverse, vertical_record, horizontal_record);
  cpools::cuda::forward_sum(corner, vertical, horizontal, output, nullptr);
}
extern "C" void backward_sum(
    int element, int64_t planes, int64_t height, int64_t width, int64_t channels, bool reverse,
    uint8_t* vertical_record, uint8_t* horizontal_record, const void* grad, void* vertical_grad,
    void* horizontal_grad) {
  const Corner corner = corner_of(
      element, planes, height, width, channels, reverse, vertical_record, horizontal_record);
  cpools::cuda::backward_sum(corner, grad, vertical_grad, horizontal_grad, nullptr);
}
extern "C" int launches() { return std::exchange(launch_count, 0); }
"""

QUICK = """#!{python}
import os, sys
arguments = ["/dev/null" if each.endswith({left_out}) else each for each in sys.argv[1:]]
kind = ["-x", "c++"] if "/dev/null" in arguments else []
for each in sys.argv[1:]:
    if each.endswith("/batch_norm.cpp"):
        for other in {together}:
            kind += ["-include", os.path.join(os.path.dirname(each), other)]
os.execvp("{compiler}", ["{compiler}", *kind, *arguments, "-O0", "-g0"])
"""


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """corner_pool.cu, compiled for the CPU: each launch becomes a loop over emulated blocks."""
    folder = tmp_path_factory.mktemp("emulation")
    library = compile_emulated("corner_pool.cu", ENTRY, 6, folder)
    sizes = [ctypes.c_int, *[ctypes.c_int64] * 3, ctypes.c_bool]
    library.forward.argtypes = library.backward.argtypes = [*sizes, *[ctypes.c_void_p] * 3]
    sizes.insert(1, ctypes.c_int64)
    library.forward_sum.argtypes = library.backward_sum.argtypes = [*sizes, *[ctypes.c_void_p] * 5]
    return library


def run_emulated(
    library: ctypes.CDLL, x: Tensor, grad: Tensor, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Maxima, record and gradient of contiguous [outer, length, inner]."""
    outer, length, inner = x.shape
    scan = (DTYPES.index(x.dtype), outer, length, inner, reverse)
    maxima, grad_input = torch.full_like(x, 77), torch.full_like(x, 77)
    record = torch.full((outer, (length + 7) // 8, inner), 255, dtype=torch.uint8)
    library.forward(*scan, x.data_ptr(), maxima.data_ptr(), record.data_ptr())
    library.backward(*scan, grad.data_ptr(), record.data_ptr(), grad_input.data_ptr())
    return maxima, record, grad_input


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
        assert_gradient(grad_input, grad, record, 1, reverse)


# Planes, height, width, channels. One kernel scans both ways, with a plane a block, but where
# channels are neighbours or a plane has more columns than a block can take: 256, of halves 512.
CORNERS = [(2, 19, 24, 1), (1, 16, 5, 1), (1, 9, 1, 1), (1, 3, 304, 1), (2, 5, 3, 4)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_emulated_sum(emulated: ctypes.CDLL, dtype: torch.dtype) -> None:
    emulated.launches()
    for seed, sizes in enumerate(CORNERS):
        planes, height, width, channels = sizes
        reverse, shape = seed % 2 == 0, (planes, height, width, channels)
        x, y = random_values(shape, dtype, seed), random_values(shape, dtype, seed + 9)
        grad = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
        down, down_record = reference.corner_pool(x, 1, reverse)
        along, along_record = reference.corner_pool(y, 2, reverse)
        records = [torch.full_like(each, 255) for each in (down_record, along_record)]
        results = [torch.full_like(x, 77) for _ in range(3)]
        scans = DTYPES.index(dtype), *sizes, reverse, *(each.data_ptr() for each in records)
        emulated.forward_sum(*scans, *(each.data_ptr() for each in (x, y, results[0])))
        assert all(map(torch.equal, records, (down_record, along_record))), sizes
        assert torch.equal(results[0].nan_to_num(5), (down + along).nan_to_num(5)), sizes
        emulated.backward_sum(*scans, *(each.data_ptr() for each in (grad, *results[1:])))
        assert_gradient(results[1], grad, down_record, 1, reverse)
        assert_gradient(results[2], grad, along_record, 2, reverse)
        narrow = width <= 256 * (2 if dtype.itemsize == 2 else 1)
        assert emulated.launches() == (2 if channels == 1 and narrow else 4), sizes


@pytest.mark.parametrize("dtype", DTYPES)
def test_emulated_lines_off_16_bytes(emulated: ctypes.CDLL, dtype: torch.dtype) -> None:
    x = random_values((1, 1 + 3 * 64, 1), dtype, 0)[:, 1:].view(3, 64, 1)
    assert x.data_ptr() % 16 != 0
    grad = torch.randn(x.shape).to(dtype)
    maxima, record, grad_input = run_emulated(emulated, x, grad, False)
    expected, expected_record = reference.corner_pool(x, 1, False)
    assert_gradient(grad_input, grad, record, 1, False)
    assert torch.equal(maxima.nan_to_num(5), expected.nan_to_num(5))
    assert torch.equal(record, expected_record)


@pytest.mark.slow
def test_compiles_for_cuda(tmp_path: Path) -> None:
    """sm_90 and PTX, as setup.py builds it with FORCE_CUDA=1 and no GPU.

    The compilers are told not to optimise, to leave out soft-NMS, which has no CUDA part, and to
    compile the operators that are for CUDA alone together, as most of their time goes into headers:
    it would take more than a minute otherwise.
    """
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if shutil.which("nvcc") is None or torch.version.cuda is None or compiler is None:
        pytest.skip("no nvcc, no C++ compiler, or a torch without CUDA")
    quick = tmp_path / "g++"
    together = tuple(f"{name}.cpp" for name in ("corners", "focal", "peaks", "windows"))
    left_out = ("/soft_nms.cpp", *(f"/{name}" for name in together))
    names = {"left_out": left_out, "together": together}
    quick.write_text(QUICK.format(python=sys.executable, compiler=compiler, **names))
    quick.chmod(0o755)
    command = [sys.executable, "setup.py", "-q", "build_ext"]
    command += ["--build-lib", str(tmp_path / "lib"), "--build-temp", str(tmp_path / "temp")]
    variables = {
        "CXX": str(quick),
        "FORCE_CUDA": "1",
        "TORCH_CUDA_ARCH_LIST": "9.0+PTX",
        # PTX that is not compressed is text, which can be found.
        "NVCC_APPEND_FLAGS": "--no-compress -Xcicc -O0 -Xptxas -O0",
    }
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True
    )
    binaries = list((tmp_path / "lib").glob("_cpools_ext*"))
    assert done.returncode == 0 and len(binaries) == 1, done.stdout + done.stderr
    assert "CUDA operators" not in done.stderr, done.stderr
    content = binaries[0].read_bytes()
    assert b"sm_90" in content and b".target sm_90" in content  # the second is the PTX
    paths = os.pathsep.join([str(tmp_path / "lib"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "cpools_ext"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " for sm_90\n" in done.stdout and "CUDA: native; " in done.stdout
