"""Corners: the CUDA kernels of their operators, emulated and on a GPU, against standard PyTorch.

Those in standard PyTorch are what ``tests/decode`` tests.
"""

import ctypes
from collections.abc import Callable
from itertools import count
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from cpools_ext import __main__
from cpools_ext.corners import Corners, best_pairs, gather_cells, read_corners, score_pairs
from tests.support.cpools_devices import DTYPES, skip_without_kernel
from tests.support.cuda_emulation import compile_emulated

ENTRY = """
using cpools::Corners, cpools::Vectors;
struct Shape { int64_t images, count; };
extern "C" void read_corners(
    Shape shape, const float* logits, const int64_t* cells, const Vectors* offsets,
    cpools::Grid grid, float* points, float* scores, bool* found) {
  cpools::cuda::read_corners(
      shape.images, shape.count, logits, cells, offsets[0], offsets[1], grid, points, scores, found,
      nullptr);
}
extern "C" void score_pairs(
    const Corners* corners, const Vectors* embeddings, float max_distance, float* pairs) {
  cpools::cuda::score_pairs(
      *corners, embeddings[0], embeddings[1], max_distance, pairs, nullptr);
}
extern "C" void join_pairs(
    const Corners* corners, int64_t kept, const float* pairs, const int64_t* numbers, float* rows) {
  cpools::cuda::join_pairs(*corners, kept, pairs, numbers, rows, nullptr);
}
"""


class Shape(ctypes.Structure):
    _fields_ = [("images", ctypes.c_int64), ("count", ctypes.c_int64)]


class Grid(ctypes.Structure):
    _fields_ = [
        ("height", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("no_border", ctypes.c_bool),
    ]


class Vectors(ctypes.Structure):
    _fields_ = [
        ("element", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("strides", ctypes.c_int64 * 6),  # the map's width, then those of image, channel, ...
    ]

    @classmethod
    def of(cls, x: Tensor) -> "Vectors":
        image, channel, *cell = x.stride() if x.dim() == 4 else x.mT.stride()
        width, strides = (x.shape[3], (*cell, 0)) if x.dim() == 4 else (1, (0, 0, *cell))
        numbers = (ctypes.c_int64 * 6)(width, image, channel, *strides)
        return cls(DTYPES.index(x.dtype), x.data_ptr(), numbers)


class Pointers(ctypes.Structure):
    """The corners of the C++ kernels."""

    _fields_ = [
        ("shape", Shape),
        *((name, ctypes.c_void_p) for name in ("points", "scores", "labels", "cells", "found")),
    ]


class Case(NamedTuple):
    """Two heatmaps' peaks, and the maps of an offset and an embedding of either kind."""

    peaks: tuple[Tensor, Tensor, Tensor]
    size: tuple[int, int]
    offsets: list[Tensor]
    embeddings: list[Tensor]

    def to(self, device: str) -> "Case":
        moved = ([each.to(device) for each in part] for part in (self.peaks, *self[2:]))
        peaks, offsets, embeddings = moved
        return Case(tuple(peaks), self.size, offsets, embeddings)

    def read(self, no_border: bool) -> Corners:
        return read_corners(self.peaks, self.offsets, self.size, no_border)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": Tensor.contiguous,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "half of a map": lambda x: torch.stack((x, x + 1), 4)[..., 0],
}


def make_case(dtype: torch.dtype, layout: str, seed: int = 0) -> Case:
    """Makes corners of two classes, of which a fifth is missing, and some numbers that are NaN.

    The layout "at the corners" has maps of these only.
    """
    g = torch.Generator().manual_seed(seed)
    images, number, height, width = 2, 30, 9, 11
    logits = torch.randn(2, images, number, generator=g)
    logits[torch.rand(logits.shape, generator=g) < 0.2] = -torch.inf
    labels = torch.randint(0, 2, logits.shape, generator=g)
    cells = torch.randint(0, height * width, logits.shape, generator=g)
    maps = [torch.randint(-4, 5, (images, d, height, width), generator=g) / 4 for d in (2, 2, 1, 1)]
    for each in maps:
        each[torch.rand(each.shape, generator=g) < 0.05] = torch.nan
    if layout == "at the corners":
        maps = [gather_cells(each, cells[kind % 2]) for kind, each in enumerate(maps)]
        maps[1] = maps[1].mT.contiguous().mT
    else:
        maps = [LAYOUTS[layout](each) for each in maps]
    maps = [each.to(dtype) for each in maps]  # quarters, which every type holds
    return Case((logits, labels, cells), (height, width), maps[:2], maps[2:])


ALL_LAYOUTS = (*LAYOUTS, "at the corners")
CASES = [(dtype, "contiguous") for dtype in DTYPES]
CASES += [(torch.bfloat16, layout) for layout in ALL_LAYOUTS[1:]]


def assert_same(found: Corners, wanted: Corners) -> None:
    torch.testing.assert_close(tuple(found), tuple(wanted), rtol=0, atol=1e-6, equal_nan=True)


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    library = compile_emulated("corners.cu", ENTRY, 3, tmp_path_factory.mktemp("emulation"))
    pointer = ctypes.c_void_p
    library.read_corners.argtypes = [Shape, *[pointer] * 3, Grid, *[pointer] * 3]
    library.score_pairs.argtypes = [pointer, pointer, ctypes.c_float, pointer]
    library.join_pairs.argtypes = [pointer, ctypes.c_int64, *[pointer] * 3]
    return library


@pytest.mark.parametrize("dtype, layout", CASES)
def test_the_emulated_kernels(emulated: ctypes.CDLL, dtype: torch.dtype, layout: str) -> None:
    for seed, no_border in enumerate((False, True)):
        case = make_case(dtype, layout, seed)
        logits, labels, cells = case.peaks
        wanted = case.read(no_border)
        found = Corners(
            torch.full_like(wanted.points, 77),
            torch.full_like(wanted.scores, 77),
            labels,
            cells,
            torch.full_like(wanted.found, seed == 0),
        )
        shape = Shape(*logits.shape[1:])
        offsets, embeddings = (
            (Vectors * 2)(*map(Vectors.of, maps)) for maps in (case.offsets, case.embeddings)
        )
        grid = Grid(*case.size, no_border)
        results = (each.data_ptr() for each in (found.points, found.scores, found.found))
        emulated.read_corners(shape, logits.data_ptr(), cells.data_ptr(), offsets, grid, *results)
        assert_same(found, wanted)

        pointers = Pointers(shape, *(each.data_ptr() for each in found))
        expected = score_pairs(found, case.embeddings, 1)
        pairs = torch.full_like(expected, 77)
        emulated.score_pairs(ctypes.byref(pointers), embeddings, 1, pairs.data_ptr())
        assert torch.equal(pairs, expected) and 10 < (pairs > -1).sum() < pairs.numel() / 2

        expected = best_pairs(found, pairs, 20)
        rows = torch.full_like(expected, 77)
        kept = tuple(each.contiguous() for each in pairs.flatten(1).topk(20))
        emulated.join_pairs(
            ctypes.byref(pointers), 20, *(each.data_ptr() for each in (*kept, rows))
        )
        assert torch.equal(rows.nan_to_num(7), expected.nan_to_num(7))


def test_shapes_without_values() -> None:
    case = make_case(torch.float32, "contiguous")
    there = case.to("meta")
    corners, blank = case.read(no_border=True), there.read(no_border=True)
    pairs, blank_pairs = (
        score_pairs(of, each.embeddings, 1) for of, each in ((corners, case), (blank, there))
    )
    rows, blank_rows = best_pairs(corners, pairs, 20), best_pairs(blank, blank_pairs, 20)
    for real, fake in zip((*corners, pairs, rows), (*blank, blank_pairs, blank_rows), strict=True):
        assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())


def test_an_exported_program_has_standard_operators_only() -> None:
    class Pairing(torch.nn.Module):
        def forward(self, peaks: tuple, offsets: list, embeddings: list) -> Tensor:
            corners = read_corners(peaks, offsets, (9, 11), True)
            return best_pairs(corners, score_pairs(corners, embeddings, 1), 20)

    case = make_case(torch.float32, "contiguous")
    inputs = case.peaks, case.offsets, case.embeddings
    program = torch.export.export(Pairing(), inputs)
    assert "cpools_ext" not in str(program.graph)
    torch.testing.assert_close(program.module()(*inputs), Pairing()(*inputs), equal_nan=True)


def test_the_self_check_compares_corners(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [same for _, same in __main__._compare_corners("cpu")] == [True] * len(DTYPES)
    numbers = count()
    monkeypatch.setattr(
        __main__, "score_pairs", lambda *_: torch.full((2, 20, 20), float(next(numbers)))
    )
    assert [same for _, same in __main__._compare_corners("cpu")] == [False] * len(DTYPES)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype, layout", CASES)
def test_cuda(dtype: torch.dtype, layout: str) -> None:
    skip_without_kernel("cuda")
    for seed, no_border in enumerate((False, True)):
        case = make_case(dtype, layout, seed)
        there = case.to("cuda")
        wanted, found = case.read(no_border), there.read(no_border)
        assert_same(Corners(*(each.cpu() for each in found)), wanted)
        expected = score_pairs(wanted, case.embeddings, 1)
        pairs = score_pairs(found, there.embeddings, 1)
        torch.testing.assert_close(pairs.cpu(), expected, rtol=0, atol=1e-6)
        rows = best_pairs(found, pairs, 20).cpu()
        best = best_pairs(wanted, expected, 20)
        objects = best[..., 4] > -1  # the order of the others is not defined
        torch.testing.assert_close(rows[objects], best[objects], rtol=0, atol=1e-6)


@pytest.mark.cuda
def test_what_is_refused_on_cuda() -> None:
    skip_without_kernel("cuda")
    case = make_case(torch.float32, "contiguous").to("cuda")
    wrong = [each[:, :1] for each in case.offsets]
    with pytest.raises(ValueError, match="2 channels"):
        case._replace(offsets=wrong).read(no_border=False)
    corners = case.read(no_border=False)
    with pytest.raises(ValueError, match="of each kind"):
        score_pairs(corners, case.embeddings[:1], 0.5)
    with pytest.raises(ValueError, match="corners are"):
        score_pairs(corners._replace(labels=corners.labels.int()), case.embeddings, 1)
    with pytest.raises(ValueError, match="pairs are float32"):
        best_pairs(corners, corners.scores, 5)
