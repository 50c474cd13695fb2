"""Targets of the map of centres that confirms pairs of corners (CenterNet, arXiv:1904.08189).

The paper trains a peak at the centre of every box, and looks for one in the middle of a pair. Here
all cells in the middle of a box are trained, so that one of them can be read for each pair.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# Half of the region's width and height, relative to those of its box, and the least in cells: some
# cell of every box is trained.
_PART, _LEAST = 0.3, 0.51


@dataclass(frozen=True)
class CenterRegions:
    """The middle of each object; H x W output cells.

    Attributes:
        inside: bool [B, C, H, W], true for cells in the middle of an object of the class.
        counted: bool [B, 1, H, W], false for the other cells of an object, which are not trained.
    """

    inside: Tensor
    counted: Tensor


def center_regions(
    boxes: Tensor,
    labels: Tensor,
    trained: Tensor,
    present: Tensor,
    num_classes: int,
    output_size: tuple[int, int],
) -> CenterRegions:
    """Renders the middles of boxes.

    Args:
        boxes: float32 [B, M, 4], in cells.
        labels: int64 [B, M].
        trained: bool [B, M], boxes whose middles are trained.
        present: bool [B, M], all boxes; what lies in one that is not trained costs nothing.
        num_classes: number of object classes C.
        output_size: H and W.
    """
    middle, half = (boxes[..., 2:] + boxes[..., :2]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2
    reach = (2 * _PART * half).clamp(min=_LEAST)
    classes = F.one_hot(labels, num_classes) * trained[..., None]  # [B, M, C]
    inside = _any(classes, *_spans(middle, reach, output_size))
    covered = _any(present[..., None], *_spans(middle, half, output_size))
    return CenterRegions(inside, ~covered | inside.any(1, keepdim=True))


def _spans(middle: Tensor, reach: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Rows bool [B, M, H] and columns bool [B, M, W] whose cells' middles lie within a reach."""
    rows, columns = (torch.arange(side, device=middle.device) + 0.5 for side in size)
    near_y = (rows - middle[..., 1:]).abs() < reach[..., 1:]
    return near_y, (columns - middle[..., :1]).abs() < reach[..., :1]


def _any(kinds: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Cells of each kind that lie in the span of one of the boxes: bool [B, C, H, W].

    Args:
        kinds: [B, M, C], not 0 for the kinds of each box.
        rows, columns: [B, M, H] and [B, M, W].
    """
    weights = (kinds[..., None] * rows[:, :, None]).flatten(2).float()  # [B, M, C * H]
    count = weights.transpose(1, 2) @ columns.float()  # [B, C * H, W]
    return count.unflatten(1, (kinds.shape[2], rows.shape[2])) > 0
