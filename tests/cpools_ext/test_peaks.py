"""Peaks: the operator in standard PyTorch, and its CUDA kernel, emulated and on a GPU."""

import ctypes
from itertools import count

import pytest
import torch
from torch import Tensor

from cpools_ext import __main__
from cpools_ext.peaks import highest, peaks, top_peaks
from tests.support.cpools_devices import DTYPES, random_values
from tests.support.cuda_emulation import compile_emulated

ENTRY = """
extern "C" void peaks(
    int element, const void* data, const int* sizes, const int64_t* strides, int reach,
    float* output) {
  const cpools::Heatmap heatmap{
      static_cast<cpools::Element>(element), data, sizes[0], sizes[1], sizes[2], sizes[3],
      {strides[0], strides[1], strides[2], strides[3]}};
  cpools::cuda::peaks(heatmap, reach, output, nullptr);
}
extern "C" void place_peaks(
    int64_t count, int64_t area, const float* scores, const int64_t* numbers, int64_t* labels,
    int64_t* cells) {
  cpools::cuda::place_peaks(count, area, scores, numbers, labels, cells, nullptr);
}
"""

SHAPES = [(2, 3, 9, 11), (1, 1, 1, 1), (1, 4, 2, 17), (2, 5, 13, 1)]
LAYOUTS = {
    "contiguous": Tensor.contiguous,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "columns first": lambda x: x.mT.contiguous().mT,
    "half of a map": lambda x: torch.stack((x, x + 1), 4)[..., 0],
}


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    library = compile_emulated("peaks.cu", ENTRY, 2, tmp_path_factory.mktemp("emulation"))
    pointer = ctypes.c_void_p
    library.peaks.argtypes = [ctypes.c_int, *[pointer] * 3, ctypes.c_int, pointer]
    library.place_peaks.argtypes = [ctypes.c_int64, ctypes.c_int64, *[pointer] * 4]
    return library


def by_definition(heatmap: Tensor, kernel: int) -> Tensor:
    """Each cell compared with its window, one after the other: [B, C * H * W]."""
    values, reach = heatmap.float(), kernel // 2
    found = torch.full_like(values, -torch.inf).contiguous()
    for image, label, y, x in torch.cartesian_prod(*map(torch.arange, heatmap.shape)).tolist():
        rows, columns = (slice(max(at - reach, 0), at + reach + 1) for at in (y, x))
        if (values[image, label, rows, columns] <= values[image, label, y, x]).all():
            found[image, label, y, x] = values[image, label, y, x]
    return found.flatten(1)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_peaks_by_definition(shape: tuple[int, ...], kernel: int) -> None:
    heatmaps = [random_values(shape, torch.float32, seed) for seed in (0, 1)]
    found = peaks(heatmaps, kernel)
    assert torch.equal(found, torch.stack([by_definition(each, kernel) for each in heatmaps]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_emulated_kernel(emulated: ctypes.CDLL, dtype: torch.dtype) -> None:
    cases = [(shape, "contiguous", 3) for shape in SHAPES]
    cases += [(SHAPES[0], layout, kernel) for layout in LAYOUTS for kernel in (1, 3, 7, 99)]
    for seed, (shape, layout, kernel) in enumerate(cases):
        heatmap = LAYOUTS[layout](random_values(shape, dtype, seed))
        output = torch.full((shape[0], heatmap[0].numel()), 77.0)
        sizes, strides = (ctypes.c_int * 4)(*shape), (ctypes.c_int64 * 4)(*heatmap.stride())
        element, data = DTYPES.index(dtype), heatmap.data_ptr()
        emulated.peaks(element, data, sizes, strides, kernel // 2, output.data_ptr())
        assert torch.equal(output, peaks([heatmap], kernel)[0]), (shape, layout, kernel)


def few_peaks() -> list[Tensor]:
    """Two heatmaps with 3 classes of 10 x 12 cells, whose images have a peak a class."""
    slope = torch.arange(120.0).view(10, 12) + 1000 * torch.tensor([[3.0], [1], [2]])[..., None]
    return [slope.expand(2, 3, 10, 12), -slope.expand(2, 3, 10, 12)]


def test_top_peaks_are_the_highest() -> None:
    """Those that are missing have the score -inf, and are at cell 0 of class 0."""
    scores, labels, cells = top_peaks(few_peaks(), 5, 3)
    assert scores.shape == labels.shape == cells.shape == (2, 2, 5)
    gone = [-torch.inf] * 2
    assert scores[:, 1].tolist() == [[3119, 2119, 1119, *gone], [-1000, -2000, -3000, *gone]]
    assert labels[:, 1].tolist() == [[0, 2, 1, 0, 0], [1, 2, 0, 0, 0]]
    assert cells[:, 1].tolist() == [[119, 119, 119, 0, 0], [0] * 5]


@pytest.mark.parametrize("k", [1, 2, 100])
def test_more_peaks_than_cells(k: int) -> None:
    found = top_peaks([torch.ones(1, 1, 1, 2)], k, 3)
    assert [each.shape for each in found] == [(1, 1, k)] * 3
    assert (found[0] == 1).sum() == min(k, 2) and (found[0] == -torch.inf).sum() == max(k - 2, 0)


def test_the_emulated_places(emulated: ctypes.CDLL) -> None:
    heatmaps = few_peaks()
    wanted = top_peaks(heatmaps, 5, 3)
    scores, numbers = highest(peaks(heatmaps, 3), 5)
    numbers[scores == -torch.inf] = 99  # a topk gives any
    labels, cells = (torch.full_like(numbers, 77) for _ in range(2))
    pointers = (each.data_ptr() for each in (scores, numbers, labels, cells))
    emulated.place_peaks(numbers.numel(), 120, *pointers)
    assert torch.equal(labels, wanted[1]) and torch.equal(cells, wanted[2])


def test_layouts_and_dtypes_have_the_same_peaks() -> None:
    heatmap = random_values(SHAPES[0], torch.float32, 0)
    wanted = peaks([heatmap], 3)
    for dtype in DTYPES:  # which all hold quarters
        for arranged in LAYOUTS.values():
            found = peaks([arranged(heatmap.to(dtype))], 3)
            assert found.is_contiguous() and torch.equal(found, wanted)


def test_shapes_without_values() -> None:
    heatmap = random_values(SHAPES[0], torch.bfloat16, 0)
    wanted, found = (peaks([each, each], 3) for each in (heatmap, heatmap.to("meta")))
    assert (found.shape, found.dtype, found.stride()) == (
        wanted.shape,
        wanted.dtype,
        wanted.stride(),
    )


def test_shapes_of_the_top_without_values() -> None:
    heatmap = random_values(SHAPES[0], torch.bfloat16, 0)
    wanted, found = (top_peaks([each, each], 7, 3) for each in (heatmap, heatmap.to("meta")))
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours.shape, ours.dtype, ours.stride()) == (
            theirs.shape,
            theirs.dtype,
            theirs.stride(),
        )


def test_an_exported_program_has_standard_operators_only() -> None:
    class Peaks(torch.nn.Module):
        def forward(self, tl: Tensor, br: Tensor) -> Tensor:
            return peaks([tl, br], 3)

    maps = random_values(SHAPES[0], torch.float32, 0), random_values(SHAPES[0], torch.float32, 1)
    program = torch.export.export(Peaks(), maps)
    assert "cpools_ext" not in str(program.graph)
    assert torch.equal(program.module()(*maps), peaks(maps, 3))


def test_the_self_check_compares_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = (random_values(SHAPES[0], torch.float32, seed) for seed in (0, 1))
    assert [same for _, same in __main__._compare_peaks("", x, y, "cpu")] == [True] * 3
    calls = count()
    monkeypatch.setattr(__main__, "peaks", lambda maps, kernel: torch.full((1,), next(calls)))
    assert [same for _, same in __main__._compare_peaks("", x, y, "cpu")] == [False] * 3


@pytest.mark.parametrize(
    "heatmaps, kernel, message",
    [
        ([torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 3)], 3, "must agree in shape"),
        ([torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2).half()], 3, "must agree"),
        ([torch.zeros(1, 2, 2)], 3, r"not torch.float32 \(1, 2, 2\)"),
        ([torch.zeros(1, 1, 2, 2).int()], 3, "not torch.int32"),
        ([torch.zeros(1, 1, 2, 2)], 2, "kernel 2 must be odd"),
        ([torch.zeros(1, 1, 2, 2)], -1, "kernel -1 must be odd"),
    ],
)
def test_what_is_refused(heatmaps: list[Tensor], kernel: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        peaks(heatmaps, kernel)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda(dtype: torch.dtype, layout: str) -> None:
    for shape in (*SHAPES, (2, 80, 33, 40)):
        maps = [LAYOUTS[layout](random_values(shape, dtype, seed)) for seed in (0, 1)]
        there = [LAYOUTS[layout](each.cuda()) for each in maps]
        for kernel in (1, 3, 7):
            assert torch.equal(peaks(there, kernel).cpu(), peaks(maps, kernel)), (shape, kernel)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_top_peaks_on_cuda() -> None:
    g = torch.Generator().manual_seed(0)
    noise = [torch.randn(2, 8, 33, 40, generator=g) for _ in range(2)]
    one = [torch.ones(1, 1, 1, 1)]
    for heatmaps, k in ((noise, 100), (few_peaks(), 5), (one, 4)):
        found = top_peaks([each.cuda() for each in heatmaps], k, 3)
        for ours, theirs in zip(found, top_peaks(heatmaps, k, 3), strict=True):
            assert torch.equal(ours.cpu(), theirs)
