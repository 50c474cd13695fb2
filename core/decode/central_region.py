"""Pairs corners that point to one centre (CentripetalNet, arXiv:2003.09119, section 3.2)."""

import torch
from torch import Tensor

from cpools_ext.corners import (
    REJECTED,
    best_pairs,
    gather_both,
    possible_pairs,
    split_kinds,
)

from ..structures import GuidedMaps
from .corners import best_corners

# Sides of the central region, as fractions of the box's; boxes above the limit (square pixels of
# the network's input) are large. Both are below one half, which separates equal neighbours: a
# corner of one and the opposite corner of the next point to centres half way from the middle.
_LARGE = 3500
_LARGE_FRACTION, _SMALL_FRACTION = 1 / 2.1, 1 / 2.4


@torch.no_grad()
def decode_central_region(
    maps: GuidedMaps, *, stride: int, top_k: int, kernel: int, num_dets: int
) -> Tensor:
    """Finds objects as pairs of the best corners that both point into the middle of their box.

    Each corner predicts where the centre of its box is. Both predictions must lie within the
    central region of a pair's box. A pair scores the mean of its corners, times
    ``exp(-a / r)``: ``a`` is the area of the box between the two predictions, ``r`` that of the
    region.

    Boxes of one class with a common centre are not told apart: an outer corner and an inner one
    predict one centre. The guiding shifts are not read.

    Args:
        maps: maps of one stack, any floating dtype, layout and device.
        stride: pixels per cell.
        top_k, kernel, num_dets: as for :func:`core.decode.corners.decode_corners`.

    Returns:
        As :func:`core.decode.corners.decode_corners`.
    """
    maps, corners = best_corners(maps, top_k=top_k, kernel=kernel)
    tl, br = split_kinds(corners)
    shifts = gather_both((maps.tl_shift, maps.br_shift), corners.cells)  # [2, B, K, 2]
    tl_shift, br_shift = shifts.float().exp().unbind()
    tl_points, br_points = tl.points[:, :, None], br.points[:, None, :]  # top-left corners down
    tl_centers, br_centers = tl_points + tl_shift[:, :, None], br_points - br_shift[:, None, :]
    sides, middles = br_points - tl_points, (br_points + tl_points) / 2  # [B, K, K, 2]
    large = sides.prod(3) * stride**2 > _LARGE
    region = sides * torch.where(large, _LARGE_FRACTION, _SMALL_FRACTION)[..., None]
    reach = region / 2
    near = [(centers - middles).abs() < reach for centers in (tl_centers, br_centers)]
    paired = possible_pairs(tl, br) & (near[0] & near[1]).all(3)
    weights = (-(br_centers - tl_centers).prod(3).abs() / region.prod(3)).exp()
    scores = (tl.scores[:, :, None] + br.scores[:, None, :]) / 2 * weights
    return best_pairs(corners, torch.where(paired, scores, REJECTED), num_dets)
