"""Gaussian peaks on heatmaps (CornerNet, section 3.2), all objects of a batch at once."""

from typing import NamedTuple

import torch
from torch import Tensor

_CELLS_AT_ONCE = 2**22  # of the patches that are drawn at a time where all have one size


class Peak(NamedTuple):
    """What the radius of a peak follows from, besides the size of its box.

    Attributes:
        bump: True: a peak falls off as a Gaussian. False: it is one cell.
        iou: overlap that is left, as for :func:`gaussian_radius`.
        fixed: the radius of all peaks in cells; -1: from the sizes.
    """

    bump: bool
    iou: float
    fixed: int


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


def peak_radius(heights: Tensor, widths: Tensor, peak: Peak) -> Tensor:
    """Radius of the peak of every object, in whole cells.

    Args:
        heights, widths: float64 sizes of the objects in cells, of any one shape; rounded up first.
        peak: what else it follows from.

    Returns:
        int64, of the same shape, at least 0.
    """
    if peak.bump and peak.fixed < 0:
        return gaussian_radius(heights.ceil(), widths.ceil(), peak.iou).long().clamp(min=0)
    return torch.full_like(heights, peak.fixed if peak.bump else 0, dtype=torch.int64)


def largest_radius(size: tuple[int, int], peak: Peak) -> int:
    """Largest :func:`peak_radius` of a box inside a map of a height and width in cells."""
    height, width = torch.tensor(size, dtype=torch.float64) + 1  # for sizes that were rounded
    return int(peak_radius(height, width, peak))


class Drawn(NamedTuple):
    """What is drawn for each object, in tensors that broadcast to one shape.

    Attributes:
        image, label: int64, which heatmap.
        x, y: int64, its cell, inside the heatmap.
        radius: int64, at least 0, in cells.
        mask: bool, false for padding.
    """

    image: Tensor
    label: Tensor
    x: Tensor
    y: Tensor
    radius: Tensor
    mask: Tensor


def draw_gaussians(size: tuple[int, int, int, int], objects: Drawn, largest: int) -> Tensor:
    """Draws a peak of height 1 for every object; where peaks meet, the higher value stays.

    The kernel is exp(-(dx² + dy²) / 2s²) with s = (2 radius + 1) / 6, cut off at ``radius`` in x
    and in y and at the edges. On the CPU an object costs the cells of its own patch. Elsewhere all
    patches have the size of the largest possible one: so shapes depend on no values, and the host
    does not wait for the device. And there the heatmaps are in channels_last, as the maps of a
    network: so a loss reads both in the order of their memory.

    Args:
        size: B, C, H and W of the heatmaps.
        objects: what is drawn.
        largest: a radius that none exceeds, in cells.

    Returns:
        float32 [B, C, H, W], on the device of the objects.
    """
    device = objects.x.device
    objects = Drawn(*(each.flatten() for each in torch.broadcast_tensors(*objects)))
    if device.type == "cpu":
        heatmaps = torch.zeros(size)
        _draw_cells_(heatmaps, objects)
        return heatmaps
    batch, classes, height, width = size
    heatmaps = torch.zeros((batch, height, width, classes), device=device)
    at_once = max(1, _CELLS_AT_ONCE // (2 * largest + 1) ** 2)
    for part in zip(*(each.split(at_once) for each in objects), strict=True):
        _draw_patches_(heatmaps, Drawn(*part), largest)
    return heatmaps.permute(0, 3, 1, 2)


def _draw_cells_(heatmaps: Tensor, objects: Drawn) -> None:
    """Draws the cells of all patches as one list, whose length the host reads."""
    classes, height, width = heatmaps.shape[1:]
    image, label, x, y, radius, mask = objects
    left, top = (x - radius).clamp(min=0), (y - radius).clamp(min=0)
    columns = (x + radius + 1).clamp(max=width) - left
    rows = (y + radius + 1).clamp(max=height) - top
    cells = columns * rows * mask
    ends = cells.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    owner = torch.repeat_interleave(cells, output_size=total)  # [total], the object of each cell
    number = torch.arange(total, device=cells.device) - (ends - cells)[owner]
    columns = columns[owner]
    row, column = number // columns, number % columns
    corner = ((image * classes + label) * height + top) * width + left
    dx, dy = column + (left - x)[owner], row + (top - y)[owner]
    index = corner[owner] + row * width + column
    _draw_(heatmaps, index, _values(dx, dy, radius[owner]))


def _draw_patches_(heatmaps: Tensor, objects: Drawn, largest: int) -> None:
    """Draws patches of the largest size; cells that an object does not have are drawn as 0.

    Args:
        heatmaps: [B, H, W, C], changed in place.
        objects, largest: as for :func:`draw_gaussians`, each of n objects.
    """
    height, width, classes = heatmaps.shape[1:]
    reach = torch.arange(-largest, largest + 1, device=heatmaps.device)
    image, label, x, y, radius, mask = (each[:, None, None] for each in objects)
    dx, dy = reach, reach[:, None]
    row, column = y + dy, x + dx  # [n, side, 1], [n, 1, side]
    has = mask & (dx.abs() <= radius) & (dy.abs() <= radius)
    has = has & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    row, column = row.clamp(0, height - 1), column.clamp(0, width - 1)
    index = (image * height + row) * (width * classes) + (column * classes + label)
    _draw_(heatmaps, index, _values(dx, dy, radius) * has)


def _values(dx: Tensor, dy: Tensor, radius: Tensor) -> Tensor:
    """Values of peaks at distances from their middles; the exponent is above -9 within a radius.

    So no value is small enough there for the reference's cut-off at epsilon.
    """
    scale = -18.0 / (2 * radius + 1).float().square()  # -1 / 2s²
    return ((dx * dx + dy * dy) * scale).exp()


def _draw_(heatmaps: Tensor, index: Tensor, values: Tensor) -> None:
    heatmaps.view(-1).scatter_reduce_(0, index.flatten(), values.flatten(), "amax")
