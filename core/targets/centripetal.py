"""Targets of corners that point to the centre of their box (CentripetalNet, section 3.1)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..structures import Batch
from .center_regions import CenterRegions, center_regions
from .corners import corner_targets


@dataclass(frozen=True)
class CentripetalTargets:
    """Targets of top-left (tl) and bottom-right (br) corners; H x W output cells.

    Offsets and shifts are trained in a window of cells around each corner: N = M * window².

    Attributes:
        tl_heatmap, br_heatmap: as in :class:`core.targets.corners.CornerTargets`.
        tl_index, br_index: int64 [B, N], cells as y * W + x; 0 where a mask is false.
        tl_offset, br_offset: float32 [B, N, 2], (x, y) from a cell to its corner, in cells.
        shift: float32 [B, N, 2], logarithm of half the box's width and height, in cells.
        tl_mask, br_mask: bool [B, N], false for padding, for boxes that are not usable, and for
            cells outside the map.
        centers: the middles of the objects, if they are trained.
    """

    tl_heatmap: Tensor
    br_heatmap: Tensor
    tl_index: Tensor
    br_index: Tensor
    tl_offset: Tensor
    br_offset: Tensor
    shift: Tensor
    tl_mask: Tensor
    br_mask: Tensor
    centers: CenterRegions | None


def centripetal_targets(
    batch: Batch, *, window: int = 1, centers: bool = True, **corners: Any
) -> CentripetalTargets:
    """Renders the targets of a batch on the batch's device.

    Args:
        batch: as for :func:`core.targets.corners.corner_targets`.
        window: side, odd, of the windows in which offsets and shifts are trained. A peak of a
            heatmap beside its corner then still finds the corner and the size of the box.
        centers: render the middles of the objects, too.
        corners: the other arguments of :func:`core.targets.corners.corner_targets`.
    """
    targets = corner_targets(batch, **corners)
    height, width = targets.tl_heatmap.shape[2:]
    x = batch.boxes[..., 0::2] * (width / batch.images.shape[-1])  # [B, M, 2]
    y = batch.boxes[..., 1::2] * (height / batch.images.shape[-2])
    boxes = torch.stack((x, y), 3).flatten(2)
    # Padding has no size; its logarithm is never read, but must be a number.
    half = ((boxes[..., 2:] - boxes[..., :2]) / 2).clamp(min=1e-4)
    tl_index, tl_offset, tl_mask = _windows(
        targets.tl_index, targets.tl_offset, targets.mask, (height, width), window
    )
    br_index, br_offset, br_mask = _windows(
        targets.br_index, targets.br_offset, targets.mask, (height, width), window
    )
    return CentripetalTargets(
        tl_heatmap=targets.tl_heatmap,
        br_heatmap=targets.br_heatmap,
        tl_index=tl_index,
        br_index=br_index,
        tl_offset=tl_offset,
        br_offset=br_offset,
        shift=half.log().repeat_interleave(window * window, 1),
        tl_mask=tl_mask,
        br_mask=br_mask,
        centers=center_regions(
            boxes,
            batch.labels,
            targets.mask,
            batch.present,
            targets.tl_heatmap.shape[1],
            (height, width),
        )
        if centers
        else None,
    )


def guiding_targets(targets: CentripetalTargets) -> tuple[Tensor, Tensor]:
    """Computes the guiding shifts of CentripetalNet (section 3.3).

    Returns:
        For top-left and bottom-right corners float32 [B, N, 2]: distance (x, y) from a cell of
        ``tl_index`` or ``br_index`` to the centre of its box, in cells, counted towards the inside
        of the box.
    """
    half = targets.shift.exp()
    return targets.tl_offset + half, half - targets.br_offset


def _windows(
    index: Tensor, offset: Tensor, mask: Tensor, size: tuple[int, int], window: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Extends one cell of every corner to the cells of the window around it.

    Args:
        index, offset, mask: [B, M], [B, M, 2] and [B, M], of the corners' own cells.
        size: H and W of the map.
        window: side of the windows, odd.

    Returns:
        Index, offset and mask of all cells of the windows: [B, N], [B, N, 2] and [B, N].
    """
    height, width = size
    reach = torch.arange(-(window // 2), window // 2 + 1, device=index.device)
    dy, dx = (part.flatten() for part in torch.meshgrid(reach, reach, indexing="ij"))  # [w²]
    y, x = (index // width)[..., None] + dy, (index % width)[..., None] + dx  # [B, M, w²]
    inside = mask[..., None] & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    moved = offset[:, :, None] - torch.stack((dx, dy), 1).to(offset.dtype)  # [B, M, w², 2]
    cells = (y * width + x) * inside
    return cells.flatten(1), (moved * inside[..., None]).flatten(1, 2), inside.flatten(1)
