"""Peaks: the results of the full max-pool, by whichever way they were found."""

import pytest
import torch
from torch.nn import functional as F

from core.decode import peaks as module
from core.decode.peaks import read_peaks, top_peaks
from core.structures import Peaks
from tests.support.other_device import OTHER, OtherDevice


def by_full_pooling(heatmap: torch.Tensor, kernel: int) -> torch.Tensor:
    """The heatmap where it is a peak, -inf elsewhere."""
    heatmap = heatmap.float()
    highest = F.max_pool2d(heatmap, kernel, 1, kernel // 2)
    return heatmap.masked_fill(heatmap != highest, -torch.inf)


def peaks_of_one(heatmap: torch.Tensor, k: int, kernel: int) -> Peaks:
    return Peaks(*(part[0] for part in top_peaks([heatmap], k, kernel)))


def check(heatmap: torch.Tensor, k: int, kernel: int) -> None:
    scores, labels, cells = peaks_of_one(heatmap, k, kernel)
    assert scores.dtype == torch.float32 and labels.dtype == cells.dtype == torch.int64
    assert scores.shape == labels.shape == cells.shape == (len(heatmap), k)
    ys, xs = cells // heatmap.shape[3], cells % heatmap.shape[3]
    peaks = by_full_pooling(heatmap, kernel)
    for row in range(len(heatmap)):
        wanted = peaks[row].flatten().sort(descending=True).values[:k]
        wanted = F.pad(wanted, (0, k - len(wanted)), value=-torch.inf)
        assert torch.equal(scores[row], wanted)
        found = scores[row] > -torch.inf
        places = labels[row, found], ys[row, found], xs[row, found]
        assert torch.equal(peaks[row][places], wanted[found])  # each is a peak of that score
        assert len(set(zip(*(p.tolist() for p in places), strict=True))) == found.sum()
        assert not (labels[row, ~found].any() or cells[row, ~found].any())


def maps(kind: str) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 12, 40, 33, generator=g)
    slope = 0.1 * (torch.arange(40.0)[:, None] + torch.arange(33.0))
    if kind == "noise":
        return noise
    if kind == "smooth":
        return F.avg_pool2d(noise, 9, 1, 4)
    if kind == "plateaus":
        return torch.randint(0, 4, (2, 12, 40, 33), generator=g).float()
    if kind == "constant":
        return torch.zeros(2, 12, 40, 33)
    if kind == "slopes":  # every row is high and almost none holds a peak
        return noise[:, :, :1, :1] + 10 - slope
    if kind == "uneven":  # one image of many peaks beside one of few
        return torch.stack((noise[0], noise[0, :, :1, :1] + slope))
    assert kind == "saturated"
    return (noise * 100).sigmoid()


KINDS = ("noise", "smooth", "plateaus", "constant", "slopes", "uneven", "saturated")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("k", [1, 20])
def test_results_of_the_full_pooling(kind, kernel, k):
    check(maps(kind), k, kernel)


def test_most_images_never_need_the_full_pooling(monkeypatch):
    monkeypatch.setattr(module.operators, "top_peaks", None)
    check(maps("noise"), 20, 3)
    check(maps("smooth"), 20, 3)


def test_slopes_need_more_rows_or_the_full_pooling():
    """The rows that are searched first do not decide every map, and the check notices."""
    _, complete = module._peaks_of_best_rows(maps("slopes"), 20, 3, 80)
    assert not complete
    _, complete = module._peaks_of_best_rows(maps("uneven"), 20, 3, 80)
    assert not complete


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 2, 3, 2), (2, 1, 1, 9), (1, 3, 9, 1)])
def test_fewer_cells_than_peaks_wanted(shape):
    check(torch.randn(shape, generator=torch.Generator().manual_seed(1)), 30, 3)


def test_fewer_peaks_than_wanted():
    heatmap = torch.arange(8.0 * 200 * 4).view(1, 8, 200, 4)  # one peak a class
    check(heatmap, 20, 3)
    assert (peaks_of_one(heatmap, 20, 3)[0] > -torch.inf).sum() == 8


def test_cells_that_are_not_numbers_are_no_peaks():
    heatmap = maps("noise")
    heatmap[0, 3, 5:9] = torch.nan
    heatmap[1, 0, 0, 0] = -torch.inf
    check(heatmap, 20, 3)
    scores, *_ = peaks_of_one(heatmap, 20, 3)
    assert scores.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype):
    check(maps("noise").to(dtype), 20, 3)


def test_layouts_and_untouched_input():
    heatmap = maps("smooth")
    before = heatmap.clone()
    wanted = peaks_of_one(heatmap, 20, 3)
    assert torch.equal(heatmap, before)
    last = heatmap.contiguous(memory_format=torch.channels_last)
    strided = torch.stack((heatmap, heatmap), 4)[..., 0]
    for other in (last, strided):
        for ours, theirs in zip(peaks_of_one(other, 20, 3), wanted, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", ["noise", "smooth"])
def test_several_heatmaps_give_what_each_gives(kind):
    """On the CPU one after the other, and on other devices at once, without a wait."""
    heatmaps = [maps(kind), maps(kind).flip(3)]
    wanted = [peaks_of_one(heatmap, 20, 3) for heatmap in heatmaps]
    with OtherDevice() as other:
        there = top_peaks([heatmap.to(OTHER) for heatmap in heatmaps], 20, 3)
        assert not other.waits
        there = Peaks(*(part.cpu() for part in there))
    for found in (top_peaks(heatmaps, 20, 3), there):
        for ours, theirs in zip(found, zip(*wanted, strict=True), strict=True):
            assert torch.equal(ours, torch.stack(theirs))


def test_heads_are_read_at_the_peaks():
    heatmaps = maps("noise"), maps("smooth")
    cells, peaks = read_peaks(*heatmaps, k=20, kernel=3)
    assert torch.equal(torch.stack(cells), peaks.cells)
    assert torch.equal(cells[1], peaks_of_one(heatmaps[1], 20, 3).cells)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", ["noise", "smooth", "slopes"])
def test_cuda(kind):
    heatmap = maps(kind)
    for ours, theirs in zip(
        peaks_of_one(heatmap.cuda(), 20, 3), peaks_of_one(heatmap, 20, 3), strict=True
    ):
        assert torch.equal(ours.cpu(), theirs)
