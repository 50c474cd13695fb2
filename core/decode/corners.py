"""Pairs the corners that belong to one object."""

import torch
from torch import Tensor

from ..layers.gather import gather_cells
from ..structures import CornerMaps
from .peaks import top_peaks

REJECTED = -1.0  # the score of a pair of corners that is no object


@torch.no_grad()
def decode_corners(
    maps: CornerMaps,
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
        maps: maps of one stack, any floating dtype, layout and device.
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
    assert num_dets <= top_k**2, (num_dets, top_k)
    height, width = maps.tl_heatmap.shape[2:]
    tl_scores, tl_labels, tl_ys, tl_xs = top_peaks(maps.tl_heatmap, top_k, kernel)  # [B, K]
    br_scores, br_labels, br_ys, br_xs = top_peaks(maps.br_heatmap, top_k, kernel)
    tl_found, br_found = tl_scores > -torch.inf, br_scores > -torch.inf
    if no_border:
        tl_found &= (tl_ys > 0) & (tl_xs > 0)
        br_found &= (br_ys < height - 1) & (br_xs < width - 1)

    tl_cells, br_cells = tl_ys * width + tl_xs, br_ys * width + br_xs
    tl_points = torch.stack((tl_xs, tl_ys), 2) + gather_cells(maps.tl_offset, tl_cells).float()
    br_points = torch.stack((br_xs, br_ys), 2) + gather_cells(maps.br_offset, br_cells).float()
    tl_embedding = gather_cells(maps.tl_embedding, tl_cells).float()  # [B, K, 1]
    br_embedding = gather_cells(maps.br_embedding, br_cells).float()
    tl_scores, br_scores = tl_scores.sigmoid(), br_scores.sigmoid()

    # [B, K, K]: top-left corners down, bottom-right corners across
    paired = tl_found[:, :, None] & br_found[:, None, :]
    paired &= tl_labels[:, :, None] == br_labels[:, None, :]
    paired &= (tl_embedding - br_embedding.transpose(1, 2)).abs() <= ae_threshold
    paired &= (br_points[:, None, :] >= tl_points[:, :, None]).all(3)
    scores = (tl_scores[:, :, None] + br_scores[:, None, :]) / 2
    scores, pairs = torch.where(paired, scores, REJECTED).flatten(1).topk(num_dets)

    tl, br = pairs // top_k, pairs % top_k  # [B, num_dets]
    tl_rows = torch.cat((tl_points, tl_scores[..., None], tl_labels[..., None]), 2)  # [B, K, 4]
    br_rows = torch.cat((br_points, br_scores[..., None]), 2)  # [B, K, 3]
    tl_x, tl_y, tl_score, label = _take(tl_rows, tl).unbind(2)
    br_x, br_y, br_score = _take(br_rows, br).unbind(2)
    return torch.stack((tl_x, tl_y, br_x, br_y, scores, tl_score, br_score, label), 2)


def _take(rows: Tensor, index: Tensor) -> Tensor:
    """Takes rows [B, n, D] of [B, K, D] by their numbers, int64 [B, n]."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[2]))
