"""Boxes about the peaks of a heatmap of centres."""

import torch
from torch import Tensor

from core.batch import CenterMaps
from core.decode.peaks import top_peaks
from core.gather import gather_cells


@torch.no_grad()
def decode_centers(maps: CenterMaps, *, top_k: int, kernel: int) -> Tensor:
    """Finds objects as the best peaks; nothing else suppresses (CenterNet, section 4.1).

    Args:
        maps: of one stack, float32; the heatmap holds probabilities, not logits.
        top_k: K, objects of a picture, over all classes.
        kernel: side of the window in which a centre is a local maximum, odd.

    Returns:
        float32 [B, K, 6], best first: box in output cells, score, class. The score is 0 where a
        picture has fewer peaks.
    """
    width = maps.heatmap.shape[3]
    scores, labels, ys, xs = top_peaks(maps.heatmap, top_k, kernel)  # [B, K]
    cells = ys * width + xs
    center = torch.stack((xs, ys), 2) + gather_cells(maps.offset, cells)  # [B, K, 2]
    half = gather_cells(maps.size, cells) / 2
    scores = scores.clamp(min=0)[..., None]
    return torch.cat((center - half, center + half, scores, labels[..., None]), 2)


def average_mirrored(maps: CenterMaps) -> CenterMaps:
    """Averages what was found in a picture and in its mirror image (CenterNet, section 5).

    Args:
        maps: B = 2, the second row of the mirror image; the heatmap holds probabilities.

    Returns:
        Maps of the picture, B = 1: means of heatmap and size. The offset is that of the picture
        alone; a mirrored one would mean another fraction of another cell.
    """
    heatmap, size = ((map_[:1] + map_[1:].flip(3)) / 2 for map_ in (maps.heatmap, maps.size))
    return CenterMaps(heatmap, size, maps.offset[:1])
