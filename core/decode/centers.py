"""Boxes about the peaks of a heatmap of centres."""

import torch
from torch import Tensor

from ..layers.gather import gather_cells
from ..structures import CenterMaps
from .peaks import peak_cells, top_peaks


@torch.no_grad()
def decode_centers(maps: CenterMaps, *, top_k: int, kernel: int) -> Tensor:
    """Finds objects as the best peaks, without other suppression (CenterNet, section 4.1).

    Args:
        maps: maps of one stack, float32; the heatmap holds probabilities, not logits.
        top_k: K, number of objects of an image, over all classes.
        kernel: side of the window in which a centre is a local maximum, odd.

    Returns:
        float32 [B, K, 6], best first: box in output cells, score, class. The score is 0 where an
        image has fewer peaks.
    """
    width = maps.heatmap.shape[3]
    scores, labels, ys, xs = top_peaks(maps.heatmap, top_k, kernel)  # [B, K]
    cells = ys * width + xs
    center = torch.stack((xs, ys), 2) + gather_cells(maps.offset, cells)  # [B, K, 2]
    half = gather_cells(maps.size, cells) / 2
    scores = scores.clamp(min=0)[..., None]  # [B, K, 1]
    return torch.cat((center - half, center + half, scores, labels[..., None]), 2)


def average_mirrored(maps: CenterMaps) -> CenterMaps:
    """Averages the maps of an image and of its mirror image (CenterNet, section 5).

    Args:
        maps: maps of the image and of its mirror image, B = 2; the heatmap holds probabilities.
            Sizes and offsets may be only those of the cells of :func:`center_cells`.

    Returns:
        Maps of the image, B = 1: means of heatmap and size, and the offset of the image alone: a
        mirrored offset would be another fraction of another cell.
    """
    size, mirrored = maps.size[:1], maps.size[1:]
    if mirrored.dim() == 4:  # else the cells are mirrored already
        mirrored = mirrored.flip(3)
    return CenterMaps(_mean_mirrored(maps.heatmap), (size + mirrored) / 2, maps.offset[:1])


def decode_image(outputs: list[CenterMaps], *, mirrored: bool, top_k: int, kernel: int) -> Tensor:
    """Finds the objects in the network's outputs.

    Args:
        outputs: one entry a stack, of which the last is read, in any floating dtype.
        mirrored: True: they are of an image and its mirror image, B = 2, and are averaged.
        top_k, kernel: as for :func:`decode_centers`.

    Returns:
        float32 [B, K, 6] as :func:`decode_centers` gives; B = 1 if ``mirrored``.
    """
    heatmap, size, offset = (map_.float() for map_ in outputs[-1])
    maps = CenterMaps(heatmap.sigmoid(), size, offset)
    return decode_centers(average_mirrored(maps) if mirrored else maps, top_k=top_k, kernel=kernel)


def center_cells(heatmap: Tensor, *, mirrored: bool, top_k: int, kernel: int) -> Tensor:
    """Finds the cells whose sizes and offsets :func:`decode_image` reads.

    Args:
        heatmap: logits [B, C, H, W].
        mirrored, top_k, kernel: as for :func:`decode_image`.

    Returns:
        int64 [B, K], cells ``y * W + x``; in the mirror image, the mirrored cells.
    """
    probabilities, width = heatmap.float().sigmoid(), heatmap.shape[3]
    if not mirrored:
        return peak_cells(probabilities, top_k, kernel)
    cells = peak_cells(_mean_mirrored(probabilities), top_k, kernel)
    return torch.cat((cells, cells + width - 1 - 2 * (cells % width)))


def _mean_mirrored(maps: Tensor) -> Tensor:
    return (maps[:1] + maps[1:].flip(3)) / 2
