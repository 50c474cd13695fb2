"""The best local maxima of a heatmap."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from cpools_ext import peaks as operators

from ..layers.heads import Maps, Read
from ..structures import Peaks, SearchedMaps


def top_peaks(heatmaps: Sequence[Tensor], k: int, kernel: int) -> Peaks:
    """Finds the k highest cells that no cell of the window around them exceeds.

    The result is that of comparing a heatmap with its max-pooled self (CornerNet, section 4.2):
    equal neighbours are all peaks, and the order among equal scores is not defined. Logits and
    their probabilities have the same peaks. On other devices than the CPU all heatmaps are searched
    at once, and the CPU does not wait.

    Args:
        heatmaps: n tensors [B, C, H, W] of one shape, any floating dtype and layout.
        k: number of peaks of a heatmap of an image, over all classes and cells.
        kernel: side of the window, odd.
    """
    assert kernel % 2 == 1, kernel
    if heatmaps[0].device.type != "cpu":
        return Peaks(*operators.top_peaks(heatmaps, k, kernel))
    found = [_search_rows(heatmap.detach().contiguous(), k, kernel) for heatmap in heatmaps]
    return Peaks(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def read_peaks(*heatmaps: Tensor, k: int, kernel: int) -> Read:
    """Has heads read at the :func:`top_peaks` of heatmaps."""
    peaks = top_peaks(heatmaps, k, kernel)
    return Read(peaks.cells.unbind(), peaks)


def peaks_of(maps: Maps | SearchedMaps, k: int, kernel: int, *heatmaps: str) -> tuple[Maps, Peaks]:
    """Finds the :func:`top_peaks` of some heatmaps of the maps, unless the network did.

    Returns:
        The maps without their peaks, and the peaks.
    """
    if isinstance(maps, SearchedMaps):
        return cast(Maps, maps.maps), maps.peaks
    return maps, top_peaks([getattr(maps, name) for name in heatmaps], k, kernel)


def _search_rows(heatmap: Tensor, k: int, kernel: int) -> Peaks:
    """Finds the peaks of one heatmap; only rows with the highest cells need to be searched.

    Four rows for each wanted peak are enough, unless many of them belong to few peaks.
    """
    rows = 4 * k
    while not torch.compiler.is_exporting() and rows < heatmap.shape[1] * heatmap.shape[2]:
        peaks, complete = _peaks_of_best_rows(heatmap, k, kernel, rows)
        if complete:
            return Peaks(*(part[None] for part in peaks))
        rows *= 4
    return Peaks(*operators.top_peaks([heatmap], k, kernel))


def _peaks_of_best_rows(heatmap: Tensor, k: int, kernel: int, rows: int) -> tuple[Peaks, bool]:
    """Searches only the rows of the heatmap with the highest cells.

    Returns:
        Peaks, each [B, k], and True if they are certain: if the k-th peak is as high as every cell
        of the other rows.
    """
    batch, _, height, width = heatmap.shape
    highest, best = heatmap.amax(3).flatten(1).topk(rows + 1)  # [B, rows + 1]
    labels, ys = best[:, :-1] // height, best[:, :-1] % height
    # The window's rows; those beyond the edge repeat the row at the edge, which lies in the window.
    reach = torch.arange(-(kernel // 2), kernel // 2 + 1, device=heatmap.device)
    window = (ys[..., None] + reach).clamp(0, height - 1)  # [B, rows, kernel]
    images = torch.arange(batch, device=heatmap.device)[:, None, None]
    strips = heatmap[images, labels[..., None], window].float()  # [B, rows, kernel, W]
    cells = strips[:, :, kernel // 2]
    around = F.max_pool1d(strips.amax(2), kernel, stride=1, padding=kernel // 2)
    scores, found = operators.highest(torch.where(cells == around, cells, -torch.inf).flatten(1), k)
    row = found // width
    complete = bool((scores[:, -1] >= highest[:, -1]).all())
    return Peaks(scores, labels.gather(1, row), ys.gather(1, row) * width + found % width), complete
