"""Targets of CornerNet, rendered from a batch's boxes where the network runs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..structures import Batch
from ..torch_compat import in_float64
from . import gaussian


@dataclass(frozen=True)
class CornerTargets:
    """Targets of top-left (tl) and bottom-right (br) corners; H x W output cells.

    Attributes:
        tl_heatmap, br_heatmap: float32 [B, C, H, W], 1 at a corner, falling off around it.
        tl_index, br_index: int64 [B, M], cell of each corner as y * W + x; 0 for padding.
        tl_offset, br_offset: float32 [B, M, 2], (x, y) of a corner within its cell; 0 for padding.
        mask: bool [B, M], false for padding and for boxes that are not usable.
    """

    tl_heatmap: Tensor
    br_heatmap: Tensor
    tl_index: Tensor
    br_index: Tensor
    tl_offset: Tensor
    br_offset: Tensor
    mask: Tensor


def corner_targets(
    batch: Batch,
    *,
    num_classes: int,
    output_size: tuple[int, int],
    gaussian_bump: bool,
    gaussian_iou: float,
    gaussian_radius: int,
) -> CornerTargets:
    """Renders the targets of a batch on the batch's device (CornerNet, section 3.2).

    Args:
        batch: batch with boxes inside the images and labels in 0..num_classes-1; boxes that are not
            ``usable`` are left out.
        num_classes: number of object classes C.
        output_size: H and W of the heatmaps, in cells.
        gaussian_bump: True: a peak falls off as a Gaussian. False: it is one cell.
        gaussian_iou: overlap that a box with moved corners keeps; gives the peak's radius.
        gaussian_radius: a fixed radius in cells for all peaks; -1: from the box.
    """
    height, width = output_size
    x_ratio, y_ratio = width / batch.images.shape[-1], height / batch.images.shape[-2]
    # In double precision, as in the reference, because cells and radii are rounded down.
    boxes = in_float64(batch.boxes)
    x = boxes[..., 0::2].movedim(-1, 0) * x_ratio  # [2, B, M]: tl, br
    y = boxes[..., 1::2].movedim(-1, 0) * y_ratio
    columns, rows = x.long(), y.long()
    offset = torch.stack((x - columns, y - rows), -1).float()
    size = (boxes[..., 2:] - boxes[..., :2]).float().double()  # as float32 boxes are subtracted
    peak = gaussian.Peak(gaussian_bump, gaussian_iou, gaussian_radius)
    radius = gaussian.peak_radius(size[..., 1] * y_ratio, size[..., 0] * x_ratio, peak)
    found = (columns, rows, offset, radius)
    columns, rows, offset, radius = (part.to(batch.boxes.device) for part in found)
    mask = batch.trained
    index, offset = (rows * width + columns) * mask, offset * mask[..., None]

    images = torch.arange(2 * len(batch), device=mask.device).view(2, -1, 1)  # tl, then br
    heatmaps = gaussian.draw_gaussians(
        (2 * len(batch), num_classes, height, width),
        gaussian.Drawn(images, batch.labels, columns, rows, radius, mask),
        gaussian.largest_radius(output_size, peak),
    )
    return CornerTargets(
        tl_heatmap=heatmaps[: len(batch)],
        br_heatmap=heatmaps[len(batch) :],
        tl_index=index[0],
        br_index=index[1],
        tl_offset=offset[0],
        br_offset=offset[1],
        mask=mask,
    )
