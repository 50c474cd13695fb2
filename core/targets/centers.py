"""Targets of CenterNet, rendered from a batch's boxes where the network runs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..structures import Batch
from ..torch_compat import in_float64
from . import gaussian


@dataclass(frozen=True)
class CenterTargets:
    """Targets of box centres; H x W output cells.

    Attributes:
        heatmap: float32 [B, C, H, W], 1 at a centre, falling off around it.
        index: int64 [B, M], cell of each centre as y * W + x; 0 where there is no object.
        size: float32 [B, M, 2], width and height of each box in cells; 0 where there is no object.
        offset: float32 [B, M, 2], (x, y) of a centre within its cell; 0 where there is no object.
        mask: bool [B, M], false for padding and for boxes that lie outside.
    """

    heatmap: Tensor
    index: Tensor
    size: Tensor
    offset: Tensor
    mask: Tensor


def center_targets(
    batch: Batch,
    *,
    num_classes: int,
    output_size: tuple[int, int],
    gaussian_bump: bool,
    gaussian_iou: float,
    gaussian_radius: int,
) -> CenterTargets:
    """Renders the targets of a batch on the batch's device (CenterNet, sections 3 and 4).

    Boxes are clipped to the cells' numbers, 0 .. W - 1 and 0 .. H - 1, as in the reference: the
    last cell's right and lower part is lost.

    Args:
        batch: batch with labels in 0..num_classes-1 and boxes anywhere.
        num_classes: number of object classes C.
        output_size: H and W of the heatmap, in cells.
        gaussian_bump: True: a peak falls off as a Gaussian. False: it is one cell.
        gaussian_iou: overlap that a box with moved corners keeps; gives the peak's radius.
        gaussian_radius: a fixed radius in cells for all peaks; -1: from the box.
    """
    height, width = output_size
    # In double precision, because cells and radii are rounded down to whole numbers.
    boxes = in_float64(batch.boxes)
    x = (boxes[..., 0::2] * (width / batch.images.shape[-1])).clamp(0, width - 1)  # [B, M, 2]
    y = (boxes[..., 1::2] * (height / batch.images.shape[-2])).clamp(0, height - 1)
    size = torch.stack((x[..., 1] - x[..., 0], y[..., 1] - y[..., 0]), -1)
    center = torch.stack((x.mean(-1), y.mean(-1)), -1)
    cell = center.long()
    peak = gaussian.Peak(gaussian_bump, gaussian_iou, gaussian_radius)
    radius = gaussian.peak_radius(size[..., 1], size[..., 0], peak)
    found = (cell, radius, size.float(), (center - cell).float(), (size > 0).all(-1))
    cell, radius, size, offset, inside = (part.to(batch.boxes.device) for part in found)
    mask = batch.present & inside
    images = torch.arange(len(batch), device=mask.device)[:, None]
    heatmap = gaussian.draw_gaussians(
        (len(batch), num_classes, height, width),
        gaussian.Drawn(images, batch.labels, cell[..., 0], cell[..., 1], radius, mask),
        gaussian.largest_radius(output_size, peak),
    )
    return CenterTargets(
        heatmap=heatmap,
        index=(cell[..., 1] * width + cell[..., 0]) * mask,
        size=size * mask[..., None],
        offset=offset * mask[..., None],
        mask=mask,
    )
