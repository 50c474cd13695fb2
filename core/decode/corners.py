"""Pairs the corners that belong to one object."""

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ..layers.distribution import mean_offset
from ..layers.gather import gather_cells
from ..structures import CentripetalMaps, CornerMaps, GuidedMaps, Peaks, SearchedMaps
from .peaks import peaks_of

REJECTED = -1.0  # the score of a pair of corners that is no object

# Largest difference between the size that a corner predicts and that of a pair, relative to the
# pair's: beyond it they are no object. Wrong pairs of equal objects side by side differ by 1.
_MAX_DISAGREEMENT = 0.5

AnyCornerMaps = TypeVar("AnyCornerMaps", CornerMaps, CentripetalMaps, GuidedMaps)


class Corners(NamedTuple):
    """The best corners of one kind, over all classes; K of them in each image.

    Attributes:
        points: float32 [B, K, 2], (x, y) in cells.
        scores: float32 [B, K], probabilities.
        labels: int64 [B, K].
        cells: int64 [B, K], y * W + x.
        found: bool [B, K], false where an image has fewer corners.
    """

    points: Tensor
    scores: Tensor
    labels: Tensor
    cells: Tensor
    found: Tensor


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
    maps, tl, br = best_corners(maps, top_k=top_k, kernel=kernel, no_border=no_border)
    tl_embedding = gather_cells(maps.tl_embedding, tl.cells).float()  # [B, K, 1]
    br_embedding = gather_cells(maps.br_embedding, br.cells).float()
    paired = possible_pairs(tl, br)  # [B, K, K]: top-left corners down, bottom-right corners across
    paired &= (tl_embedding - br_embedding.transpose(1, 2)).abs() <= ae_threshold
    scores = (tl.scores[:, :, None] + br.scores[:, None, :]) / 2
    return best_pairs(tl, br, torch.where(paired, scores, REJECTED), num_dets)


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
    maps, tl, br = best_corners(maps, top_k=top_k, kernel=kernel, no_border=no_border)
    tl_half = gather_cells(maps.tl_shift, tl.cells).float().exp()[:, :, None]  # [B, K, 1, 2]
    br_half = gather_cells(maps.br_shift, br.cells).float().exp()[:, None, :]  # [B, 1, K, 2]
    half = (br.points[:, None, :] - tl.points[:, :, None]).div(2).clamp(min=1e-4)
    disagreement = torch.maximum((tl_half - half).abs(), (br_half - half).abs()).div(half).amax(3)
    paired = possible_pairs(tl, br) & (disagreement <= _MAX_DISAGREEMENT)
    scores = tl.scores[:, :, None] * br.scores[:, None, :] * (1 - disagreement).clamp(min=0)
    middle = (tl.points[:, :, None] + br.points[:, None, :]) / 2
    labels = tl.labels[:, :, None].expand_as(scores)
    scores = (scores.sqrt() * center_scores(maps.center_heatmap, middle, labels)).sqrt()
    return best_pairs(tl, br, torch.where(paired, scores, REJECTED), num_dets)


def best_corners(
    maps: AnyCornerMaps | SearchedMaps,
    *,
    top_k: int,
    kernel: int,
    no_border: bool = False,
) -> tuple[AnyCornerMaps, Corners, Corners]:
    """Finds the best top-left and bottom-right corners; arguments of :func:`decode_corners`.

    Returns:
        The maps without their peaks, and the corners of both kinds.
    """
    maps, peaks = peaks_of(maps, top_k, kernel, "tl_heatmap", "br_heatmap")
    height, width = maps.tl_heatmap.shape[2:]
    tl, br = (_corners(each, width) for each in peaks)
    if isinstance(maps, CentripetalMaps):
        tl.points.add_(mean_offset(gather_cells(maps.tl_offset_bins, tl.cells)))
        br.points.add_(mean_offset(gather_cells(maps.br_offset_bins, br.cells)))
    else:
        tl.points.add_(gather_cells(maps.tl_offset, tl.cells))
        br.points.add_(gather_cells(maps.br_offset, br.cells))
    if no_border:
        tl_ys, tl_xs = tl.cells // width, tl.cells % width
        br_ys, br_xs = br.cells // width, br.cells % width
        tl.found.logical_and_((tl_ys > 0) & (tl_xs > 0))
        br.found.logical_and_((br_ys < height - 1) & (br_xs < width - 1))
    return maps, tl, br


def possible_pairs(tl: Corners, br: Corners) -> Tensor:
    """Pairs of one class whose bottom-right corner is not left of or above the other: [B, K, K]."""
    paired = tl.found[:, :, None] & br.found[:, None, :]
    paired &= tl.labels[:, :, None] == br.labels[:, None, :]
    paired &= (br.points[:, None, :] >= tl.points[:, :, None]).all(3)
    return paired


def best_pairs(tl: Corners, br: Corners, scores: Tensor, num_dets: int) -> Tensor:
    """Takes the ``num_dets`` pairs with the highest scores [B, K, K] as :func:`decode_corners`."""
    top_k = scores.shape[2]
    assert num_dets <= top_k**2, (num_dets, top_k)
    scores, pairs = scores.flatten(1).topk(num_dets)
    tl_rows = torch.cat((tl.points, tl.scores[..., None], tl.labels[..., None]), 2)  # [B, K, 4]
    br_rows = torch.cat((br.points, br.scores[..., None]), 2)  # [B, K, 3]
    tl_x, tl_y, tl_score, label = _take(tl_rows, pairs // top_k).unbind(2)  # [B, num_dets]
    br_x, br_y, br_score = _take(br_rows, pairs % top_k).unbind(2)
    return torch.stack((tl_x, tl_y, br_x, br_y, scores, tl_score, br_score, label), 2)


def _corners(peaks: Peaks, width: int) -> Corners:
    """Makes corners of the peaks of a heatmap ``width`` cells wide, at the top left of cells."""
    scores, labels, cells = peaks  # [B, K]
    points = torch.stack((cells % width, cells // width), 2).float()
    return Corners(points, scores.sigmoid(), labels, cells, scores > -torch.inf)


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
    x, y = points[..., 0].long().clamp(0, width - 1), points[..., 1].long().clamp(0, height - 1)
    cells = (labels * height + y) * width + x
    return heatmap.flatten(1).gather(1, cells.flatten(1)).view_as(cells).float().sigmoid()


def _take(rows: Tensor, index: Tensor) -> Tensor:
    """Takes rows [B, n, D] of [B, K, D] by their numbers, int64 [B, n]."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[2]))
