"""Boxes about the peaks of a heatmap of centres."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from cpools_ext.corners import gather_cells

from ..layers.heads import Read
from ..structures import CenterMaps, SearchedMaps
from .peaks import peaks_of, top_peaks


@torch.no_grad()
def decode_centers(maps: CenterMaps | SearchedMaps, *, top_k: int, kernel: int) -> Tensor:
    """Finds objects as the best peaks, without other suppression (CenterNet, section 4.1).

    Args:
        maps: maps of one stack, float32, with their peaks or without; the heatmap holds
            probabilities, not logits.
        top_k: K, number of objects of an image, over all classes.
        kernel: side of the window in which a centre is a local maximum, odd.

    Returns:
        float32 [B, K, 6], best first: box in output cells, score, class. The score is 0 where an
        image has fewer peaks.
    """
    maps, peaks = peaks_of(maps, top_k, kernel, "heatmap")
    scores, labels, cells = (part[0] for part in peaks)  # [B, K]
    width = maps.heatmap.shape[3]
    corner = torch.stack((cells % width, cells // width), 2)
    center = corner + gather_cells(maps.offset, cells)  # [B, K, 2]
    half = gather_cells(maps.size, cells) / 2
    scores, labels = scores.clamp(min=0), labels.float()
    return torch.cat((center - half, center + half, scores[..., None], labels[..., None]), 2)


def average_mirrored(maps: CenterMaps) -> CenterMaps:
    """Averages the maps of images and of their mirror images (CenterNet, section 5).

    Args:
        maps: maps of B images, then those of their mirror images; the heatmap holds probabilities.
            Sizes and offsets may be only those of the cells of :func:`read_centers`.

    Returns:
        Maps of the B images: means of heatmap and size, and the offset of the images alone: a
        mirrored offset would be another fraction of another cell.
    """
    size, offset = _average_vectors(maps.size, maps.offset)
    return CenterMaps(_mean_mirrored(maps.heatmap), size, offset)


def decode_images(
    outputs: Sequence[CenterMaps | SearchedMaps], *, mirrored: bool, top_k: int, kernel: int
) -> Tensor:
    """Finds the objects in the network's outputs.

    Args:
        outputs: one entry a stack, of which the last is read, in any floating dtype.
        mirrored: True: they are of images and then of their mirror images, and are averaged.
        top_k, kernel: as for :func:`decode_centers`.

    Returns:
        float32 [B, K, 6] as :func:`decode_centers` gives, for the images alone.
    """
    given = outputs[-1]
    if isinstance(given, SearchedMaps):  # so the heatmap was averaged, and is not read again
        heatmap, size, offset = cast(CenterMaps, given.maps)
        size, offset = size.float(), offset.float()
        if mirrored:
            size, offset = _average_vectors(size, offset)
        maps = SearchedMaps(CenterMaps(heatmap, size, offset), given.peaks)
        return decode_centers(maps, top_k=top_k, kernel=kernel)
    whole = CenterMaps(given.heatmap.float().sigmoid(), given.size.float(), given.offset.float())
    return decode_centers(
        average_mirrored(whole) if mirrored else whole, top_k=top_k, kernel=kernel
    )


def read_centers(heatmap: Tensor, *, mirrored: bool, top_k: int, kernel: int) -> Read:
    """Has heads read at the centres that :func:`decode_images` takes.

    Args:
        heatmap: logits [B, C, H, W].
        mirrored, top_k, kernel: as for :func:`decode_images`.

    Returns:
        Cells int64 [B, K], ``y * W + x``, in a mirror image the mirrored ones; and the peaks, of
        the images alone.
    """
    probabilities, width = heatmap.float().sigmoid(), heatmap.shape[3]
    peaks = top_peaks([_mean_mirrored(probabilities) if mirrored else probabilities], top_k, kernel)
    cells = peaks.cells[0]
    if mirrored:
        cells = torch.cat((cells, cells + width - 1 - 2 * (cells % width)))
    return Read((cells,), peaks)


def _mean_mirrored(maps: Tensor) -> Tensor:
    images = maps.shape[0] // 2
    return (maps[:images] + maps[images:].flip(3)) / 2


def _average_vectors(size: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Averages the sizes of images and of their mirror images, and takes the images' offsets."""
    images = size.shape[0] // 2
    own, mirrored = size[:images], size[images:]
    if mirrored.dim() == 4:  # else the cells are mirrored already
        mirrored = mirrored.flip(3)
    return (own + mirrored) / 2, offset[:images]
