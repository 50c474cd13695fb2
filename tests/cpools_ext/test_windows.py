"""Windows: the operators' CUDA kernels, emulated and on a GPU, against standard PyTorch.

What heads make of windows is tested in ``tests/layers``.
"""

import ctypes
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cpools_ext import __main__, windows
from cpools_ext.windows import DTYPES, gather_windows
from tests.support.cpools_devices import skip_without_kernel
from tests.support.cuda_emulation import compile_emulated

ENTRY = """
using cpools::Element, cpools::Windows;
extern "C" void gather(const Windows* windows, const void* maps, void* output) {
  cpools::cuda::gather_windows(*windows, maps, output, nullptr);
}
extern "C" void gradient(const Windows* windows, const void* grad, void* gradient) {
  cpools::cuda::gather_windows_backward(*windows, grad, gradient, nullptr);
}
"""

ELEMENTS = {torch.float32: 0, torch.bfloat16: 2, torch.float16: 3}
NAN = float("nan")


class Windows(ctypes.Structure):
    _fields_ = [
        ("element", ctypes.c_int),
        ("images", ctypes.c_int64),
        ("count", ctypes.c_int64),
        *((name, ctypes.c_int) for name in ("height", "width", "channels", "side")),
        ("middles", ctypes.c_void_p),
    ]


class Case(NamedTuple):
    """Maps in channels_last, windows in them, and their gradient in channels_last."""

    maps: Tensor
    index: Tensor
    side: int
    grad: Tensor

    def to(self, device: str) -> "Case":
        return Case(*(x.to(device) if isinstance(x, Tensor) else x for x in self))


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def make_case(dtype: torch.dtype, shape: tuple[int, int, int, int], count: int, side: int) -> Case:
    """Makes windows anywhere, over the border too; the second half of each image's are in a corner.

    A value of the maps is NaN, which the window beside it must not show.
    """
    g = torch.Generator().manual_seed(side)
    batch, channels, height, width = shape
    maps = last(torch.randn(shape, generator=g).to(dtype))
    maps[0, 0, height // 2, width // 2] = NAN
    index = torch.randint(0, height * width, (batch, count), generator=g)
    index[:, count // 2 :] = 0
    index[-1, count // 2 :] = height * width - 1
    grad = torch.randn(batch * count, channels, side, side, generator=g).to(dtype)
    return Case(maps, index, side, last(grad))


# Channels that 16 bytes divide, in one round of a warp and in two, and others; one cell; no window;
# more windows than a warp has lanes, or in several tiles.
CASES = [
    ((2, 8, 9, 11), 7, 3),
    ((1, 264, 2, 3), 3, 5),
    ((1, 35, 3, 9), 5, 3),
    ((2, 3, 1, 1), 40, 1),
    ((1, 4, 3, 2), 0, 3),
    ((1, 16, 3, 17), 70, 3),
]


def expected_of(case: Case) -> tuple[Tensor, Tensor]:
    """Windows, and the gradient of the maps, rounded once, by a loop over the windows."""
    maps, grad, side = case.maps.detach().cpu(), case.grad.float().cpu(), case.side
    height, width = maps.shape[2:]
    padded = F.pad(maps, [side // 2] * 4)
    sums = torch.zeros_like(padded, dtype=torch.float32)
    found = torch.empty(case.grad.shape, dtype=maps.dtype)
    numbers = case.index.cpu().numpy()
    for number, (image, window) in enumerate(np.ndindex(numbers.shape)):
        y, x = divmod(int(numbers[image, window]), width)
        place = image, slice(None), slice(y, y + side), slice(x, x + side)
        found[number] = padded[place]
        sums[place] += grad[number]
    start = side // 2
    sums = sums[:, :, start : start + height, start : start + width]
    return found, sums.to(maps.dtype)


def same(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found.cpu(), wanted, rtol=0, atol=0, equal_nan=True)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    library = compile_emulated("windows.cu", ENTRY, 4, tmp_path_factory.mktemp("emulation"))
    library.gather.argtypes = library.gradient.argtypes = [ctypes.c_void_p] * 3
    return library


def run_emulated(library: ctypes.CDLL, case: Case) -> tuple[Tensor, Tensor]:
    _, channels, height, width = case.maps.shape
    given = Windows(
        ELEMENTS[case.maps.dtype], *case.index.shape, height, width, channels, case.side
    )
    given.middles = case.index.data_ptr()
    output = last(torch.full_like(case.grad, 77))
    gradient = last(torch.full_like(case.maps, 77))
    if case.index.numel() > 0:
        library.gather(ctypes.byref(given), case.maps.data_ptr(), output.data_ptr())
    library.gradient(ctypes.byref(given), case.grad.data_ptr(), gradient.data_ptr())
    return output, gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape, count, side", CASES)
def test_the_emulated_kernels(
    emulated: ctypes.CDLL,
    dtype: torch.dtype,
    shape: tuple[int, int, int, int],
    count: int,
    side: int,
) -> None:
    if dtype == torch.float16 and (shape, count, side) != CASES[0]:
        return  # as bfloat16
    case = make_case(dtype, shape, count, side)
    for found, wanted in zip(run_emulated(emulated, case), expected_of(case), strict=True):
        same(found, wanted)


def off_16_bytes(x: Tensor) -> Tensor:
    """A copy in channels_last that begins within 16 bytes."""
    memory = x.new_empty(x.numel() + 1)[1:]
    batch, channels, height, width = x.shape
    copy = memory.view(batch, height, width, channels).permute(0, 3, 1, 2)
    assert x.numel() == 0 or copy.data_ptr() % 16 != 0
    return copy.copy_(x)


def test_emulated_kernels_off_16_bytes(emulated: ctypes.CDLL) -> None:
    case = make_case(torch.bfloat16, (1, 8, 3, 5), 4, 3)
    wanted = expected_of(case)
    shifted = case._replace(maps=off_16_bytes(case.maps), grad=off_16_bytes(case.grad))
    for found, expected in zip(run_emulated(emulated, shifted), wanted, strict=True):
        same(found, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape, count, side", CASES)
def test_the_operators_in_standard_pytorch(
    dtype: torch.dtype, shape: tuple[int, int, int, int], count: int, side: int
) -> None:
    case = make_case(dtype, shape, count, side)
    maps = case.maps.requires_grad_()
    found = windows._GatherWindows.apply(maps, case.index, side)
    (gradient,) = torch.autograd.grad(found, maps, case.grad)
    wanted = expected_of(case)
    same(found.detach(), wanted[0])
    same(gradient, wanted[1])
    blank = torch.ops.cpools_ext.gather_windows(maps.to("meta"), case.index.to("meta"), side)
    assert (blank.shape, blank.dtype) == (found.shape, found.dtype)
    same(gather_windows(maps.detach(), case.index, side), wanted[0])


def test_windows_by_hand() -> None:
    maps = torch.arange(1.0, 13).view(1, 1, 3, 4).requires_grad_()
    found = gather_windows(maps, torch.tensor([[0, 6, 0]]), 3)
    corner = [[0, 0, 0], [0, 1, 2], [0, 5, 6]]
    assert found.tolist() == [[corner], [[[2, 3, 4], [6, 7, 8], [10, 11, 12]]], [corner]]
    found.sum().backward()
    assert maps.grad.tolist() == [[[[2, 3, 1, 1], [2, 3, 1, 1], [0, 1, 1, 1]]]]


def test_the_self_check_compares_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [same for _, same in __main__._compare_windows("cpu")] == [True] * 6
    factors = iter((1.0, 2.0) * 6)
    monkeypatch.setattr(
        __main__, "gather_windows", lambda *given: gather_windows(*given) * next(factors)
    )
    assert [same for _, same in __main__._compare_windows("cpu")] == [False] * 6


def run(case: Case) -> tuple[Tensor, Tensor]:
    maps = case.maps.detach().requires_grad_()
    found = gather_windows(maps, case.index, case.side)
    return found.detach(), torch.autograd.grad(found, maps, case.grad)[0]


LARGE = ((2, 256, 32, 40), 3000, 3)
MANY = ((1, 3, 9, 9), 70000, 1)  # windows; more than the groups of which a block takes notes


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape, count, side", [*CASES, LARGE, MANY])
def test_cuda(dtype: torch.dtype, shape: tuple[int, int, int, int], count: int, side: int) -> None:
    skip_without_kernel("cuda")
    case = make_case(dtype, shape, count, side)
    there, wanted = case.to("cuda"), expected_of(case)
    arranged = [there, there._replace(grad=there.grad.contiguous())]
    arranged.append(there._replace(maps=off_16_bytes(there.maps), grad=off_16_bytes(there.grad)))
    for each in arranged:
        for found, expected in zip(run(each), wanted, strict=True):
            same(found, expected)


@pytest.mark.cuda
@pytest.mark.parametrize("other", ["contiguous", "float64"])
def test_other_maps_on_cuda(other: str) -> None:
    skip_without_kernel("cuda")
    case = make_case(torch.float32, *CASES[0]).to("cuda")
    maps = case.maps.contiguous() if other == "contiguous" else case.maps.double()
    found, gradient = run(case._replace(maps=maps, grad=case.grad.to(maps.dtype)))
    wanted = expected_of(case)
    torch.testing.assert_close(found.float().cpu(), wanted[0], rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(gradient.float().cpu(), wanted[1])


@pytest.mark.cuda
def test_cuda_takes_two_launches_that_a_graph_records() -> None:
    skip_without_kernel("cuda")
    shape, count, side = (2, 64, 16, 16), 50, 3
    case = make_case(torch.bfloat16, shape, count, side).to("cuda")
    run(case)
    maps = case.maps.requires_grad_()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = gather_windows(maps, case.index, side)
        (gradient,) = torch.autograd.grad(found, maps, case.grad)
    with torch.no_grad():
        maps.mul_(2)
        case.index.copy_(case.index.flip(1))
        case.grad.copy_(case.grad.flip(1))
    graph.replay()
    wanted = expected_of(case)
    same(found.detach(), wanted[0])
    same(gradient, wanted[1])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        torch.autograd.grad(gather_windows(maps, case.index, side), maps, case.grad)
        torch.cuda.synchronize()
    kernels = [event.name for event in profile.events() if "(" in event.name]
    assert len(kernels) == 2, kernels


@pytest.mark.cuda
def test_what_is_refused_on_cuda() -> None:
    skip_without_kernel("cuda")
    case = make_case(torch.float32, *CASES[0]).to("cuda")
    with pytest.raises(ValueError, match="odd, not 2"):
        gather_windows(case.maps, case.index, 2)
    for index in (case.index[:1], case.index.flatten()):
        with pytest.raises(ValueError, match=r"at \[B, M\]"):
            gather_windows(case.maps, index, 3)
    with pytest.raises(ValueError, match="int64"):
        gather_windows(case.maps, case.index.int(), 3)
