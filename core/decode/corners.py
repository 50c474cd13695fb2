"""Pairs the corners that belong to one object."""

from typing import TypeVar

import torch
from torch import Tensor

from cpools_ext.corners import (
    REJECTED,
    Corners,
    best_pairs,
    gather_both,
    possible_pairs,
    read_corners,
    score_pairs,
    split_kinds,
)

from ..layers.distribution import mean_offset
from ..structures import CentripetalMaps, CornerMaps, GuidedMaps, SearchedMaps
from .peaks import peaks_of

# Largest difference between the size that a corner predicts and that of a pair, relative to the
# pair's: beyond it they are no object. Wrong pairs of equal objects side by side differ by 1.
_MAX_DISAGREEMENT = 0.5

AnyCornerMaps = TypeVar("AnyCornerMaps", CornerMaps, CentripetalMaps, GuidedMaps)


@torch.no_grad()
def decode_corners(
    maps: CornerMaps | SearchedMaps,
    *,
    top_k: int,
    ae_threshold: float,
    kernel: int,
    num_dets: int,
    no_border: bool,
) -> Tensor:
    """Finds objects as pairs of the best corners (CornerNet, section 4.2).

    A pair scores the mean of its corners. It is no object if the classes differ, if the distance
    of the embeddings exceeds ``ae_threshold``, or if the bottom-right corner lies left of or above
    the other.

    Args:
        maps: maps of one stack, any floating dtype, layout and device; with their peaks, if the
            network searched for them.
        top_k: K, number of corners of each kind, over all classes.
        ae_threshold: largest distance of the embeddings of two corners of one object.
        kernel: side of the window in which a corner is a local maximum, odd.
        num_dets: number of the K x K pairs that are returned.
        no_border: refuse pairs whose top-left corner lies in the first row or column of cells, or
            whose bottom-right corner lies in the last.

    Returns:
        float32 [B, num_dets, 8], best first: box in output cells, score, score of the top-left and
        of the bottom-right corner, class. Pairs that are no objects have the score -1.
    """
    maps, corners = best_corners(maps, top_k=top_k, kernel=kernel, no_border=no_border)
    pairs = score_pairs(corners, (maps.tl_embedding, maps.br_embedding), ae_threshold)
    return best_pairs(corners, pairs, num_dets)


@torch.no_grad()
def decode_centripetal(
    maps: CentripetalMaps | SearchedMaps, *, top_k: int, kernel: int, num_dets: int, no_border: bool
) -> Tensor:
    """Finds objects as pairs of the best corners that agree on the size of their box.

    Each corner predicts half the width and half the height of its box. Relative to those of a
    pair, the largest of the four differences, w, must be at most 0.5. Then the pair's corners score
    ``sqrt(tl * br * (1 - w))``. The idea is CentripetalNet's (section 3.2). A pair scores the
    geometric mean of that and of the centre in its middle, as an object that is only seen at its
    corners is often none (arXiv:1904.08189).

    Args:
        maps: maps of one stack, any floating dtype, layout and device.
        top_k, kernel, num_dets, no_border: as for :func:`decode_corners`.

    Returns:
        As :func:`decode_corners`.
    """
    maps, corners = best_corners(maps, top_k=top_k, kernel=kernel, no_border=no_border)
    tl, br = split_kinds(corners)
    shifts = gather_both((maps.tl_shift, maps.br_shift), corners.cells)  # [2, B, K, 2]
    tl_half, br_half = shifts.float().exp().unbind()
    half = (br.points[:, None, :] - tl.points[:, :, None]).div(2).clamp(min=1e-4)
    disagreement = torch.maximum(
        (tl_half[:, :, None] - half).abs(), (br_half[:, None, :] - half).abs()
    )
    disagreement = disagreement.div(half).amax(3)
    paired = possible_pairs(tl, br) & (disagreement <= _MAX_DISAGREEMENT)
    scores = tl.scores[:, :, None] * br.scores[:, None, :] * (1 - disagreement).clamp(min=0)
    middle = (tl.points[:, :, None] + br.points[:, None, :]) / 2
    labels = tl.labels[:, :, None].expand_as(scores)
    scores = (scores.sqrt() * center_scores(maps.center_heatmap, middle, labels)).sqrt()
    return best_pairs(corners, torch.where(paired, scores, REJECTED), num_dets)


def best_corners(
    maps: AnyCornerMaps | SearchedMaps,
    *,
    top_k: int,
    kernel: int,
    no_border: bool = False,
) -> tuple[AnyCornerMaps, Corners]:
    """Finds the best top-left and bottom-right corners; arguments of :func:`decode_corners`.

    Returns:
        The maps without their peaks, and the corners.
    """
    maps, peaks = peaks_of(maps, top_k, kernel, "tl_heatmap", "br_heatmap")
    if isinstance(maps, CentripetalMaps):
        bins = gather_both((maps.tl_offset_bins, maps.br_offset_bins), peaks.cells)
        offsets = mean_offset(bins).unbind()  # each [B, K, 2]
    else:
        offsets = maps.tl_offset, maps.br_offset
    height, width = maps.tl_heatmap.shape[2:]
    return maps, read_corners(peaks, offsets, (height, width), no_border)


def center_scores(heatmap: Tensor, points: Tensor, labels: Tensor) -> Tensor:
    """Reads the probabilities of classes at points of the map of centres.

    Args:
        heatmap: logits [B, C, H, W], any floating dtype.
        points: [B, ..., 2], (x, y) in cells.
        labels: int64 [B, ...], the class at each point.

    Returns:
        float32 [B, ...].
    """
    height, width = heatmap.shape[2:]
    x, y = points.long().unbind(-1)
    cells = (labels * height + y.clamp(0, height - 1)) * width + x.clamp(0, width - 1)
    return heatmap.flatten(1).gather(1, cells.flatten(1)).view_as(cells).float().sigmoid()
