"""Gaussian peaks on heatmaps (CornerNet, section 3.2), all objects of a batch at once."""

import torch
from torch import Tensor


def gaussian_radius(heights: Tensor, widths: Tensor, iou: float) -> Tensor:
    """Distance by which both corners of a box may move with an overlap of ``iou`` left.

    The reference takes the smallest root of three cases: both corners move inwards, both outwards,
    or one of each. At any one distance r the overlap is least when both move inwards,
    ``(h - 2r) (w - 2r) / hw``, so that case always decides, and is the only one here.

    Args:
        heights, widths: float64, of any one shape.
        iou: above 0, at most 1.

    Returns:
        float64, of the same shape.
    """
    total = heights + widths
    return (total - (total * total - 4 * (1 - iou) * heights * widths).sqrt()) / 4


def peak_radius(heights: Tensor, widths: Tensor, *, bump: bool, iou: float, fixed: int) -> Tensor:
    """Radius of the peak of every object, in whole cells.

    Args:
        heights, widths: float64 sizes of the objects in cells, of any one shape; rounded up first.
        bump: True: a peak falls off as a Gaussian. False: it is one cell.
        iou: overlap that is left, as for :func:`gaussian_radius`.
        fixed: the radius of all peaks; -1: from the sizes.

    Returns:
        int64, of the same shape, at least 0.
    """
    if bump and fixed < 0:
        return gaussian_radius(heights.ceil(), widths.ceil(), iou).long().clamp(min=0)
    return torch.full_like(heights, fixed if bump else 0, dtype=torch.int64)


def splat_gaussians_(
    heatmaps: Tensor, planes: Tensor, x: Tensor, y: Tensor, radius: Tensor, drawn: Tensor
) -> None:
    """Draws a peak of height 1 for every object; where peaks meet, the higher value stays.

    The kernel is exp(-(dx² + dy²) / 2s²) with s = (2 radius + 1) / 6, cut off at ``radius`` in x
    and in y and at the edges. An object costs the cells of its own patch, however large the largest
    radius is: the cells of all patches are in one list. The host waits for the length of that list
    once a call.

    Args:
        heatmaps: float32 [P, H, W], changed in place.
        planes: int64 [n], in 0..P-1: the heatmap in which each object is drawn.
        x, y: int64 [n], cell of each object, inside the heatmap.
        radius: int64 [n], at least 0, in cells.
        drawn: bool [n], false for padding.
    """
    height, width = heatmaps.shape[-2:]
    left, top = (x - radius).clamp(min=0), (y - radius).clamp(min=0)
    columns = (x + radius + 1).clamp(max=width) - left
    rows = (y + radius + 1).clamp(max=height) - top
    cells = columns * rows * drawn
    ends = cells.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    owner = torch.repeat_interleave(cells, output_size=total)  # [total], the object of each cell
    number = torch.arange(total, device=cells.device) - (ends - cells)[owner]
    columns = columns[owner]
    row, column = number // columns, number % columns
    corner = (planes * height + top) * width + left
    dx, dy = column + (left - x)[owner], row + (top - y)[owner]
    scale = -18.0 / (2 * radius + 1).float().square()  # -1 / 2s²
    # The exponent is above -9, so no value is small enough for the reference's cut-off at epsilon.
    values = ((dx * dx + dy * dy) * scale[owner]).exp()
    index = corner[owner] + row * width + column
    heatmaps.view(-1).scatter_reduce_(0, index, values, "amax")
