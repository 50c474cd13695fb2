"""Targets of CornerNet-Saccade, rendered from a batch's boxes where the network runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..structures import Batch
from .centripetal import CentripetalTargets
from .corners import CornerTargets


@dataclass(frozen=True)
class SaccadeTargets:
    """Targets of the corners and of the attention maps.

    Attributes:
        corners: targets of the corners of usable boxes.
        tl_valid, br_valid: bool [B, C, H, W], false near a corner of any other box, where the
            heatmaps have no loss.
        attention: float32 [B, 1, h, w], coarse first: 1 in the cell of an object's centre.
    """

    corners: CornerTargets | CentripetalTargets
    tl_valid: Tensor
    br_valid: Tensor
    attention: list[Tensor]


def saccade_targets(
    batch: Batch,
    *,
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    ranges: Sequence[tuple[int, int]],
    render: Callable[[Batch], CornerTargets | CentripetalTargets],
) -> SaccadeTargets:
    """Renders the targets of a batch on the batch's device (CornerNet-Lite, section 3).

    Args:
        batch: batch with ``usable``.
        sizes, strides, ranges: as for :func:`attention_targets`.
        render: renders the targets of the corners of a batch's usable boxes.
    """
    assert batch.usable is not None
    others = render(replace(batch, usable=~batch.usable))
    return SaccadeTargets(
        corners=render(batch),
        tl_valid=others.tl_heatmap == 0,
        br_valid=others.br_heatmap == 0,
        attention=attention_targets(batch, sizes=sizes, strides=strides, ranges=ranges),
    )


def attention_targets(
    batch: Batch,
    *,
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    ranges: Sequence[tuple[int, int]],
) -> list[Tensor]:
    """Marks the centre of every object, usable or not, on the maps of its size.

    Args:
        batch: batch with boxes inside the images.
        sizes: height and width of each map, in cells.
        strides: pixels per cell of each map.
        ranges: lowest and highest longer side of the objects of each map, in pixels, both included.

    Returns:
        float32 [B, 1, h, w] for each map.
    """
    boxes, present = batch.boxes, batch.present
    side = (boxes[..., 2:] - boxes[..., :2]).amax(2)  # [B, M]
    center = (boxes[..., 2:] + boxes[..., :2]) / 2
    maps = []
    for (height, width), stride, (low, high) in zip(sizes, strides, ranges, strict=True):
        cell = (center / stride).long()
        index = cell[..., 1] * width + cell[..., 0]  # [B, M]
        marked = (present & (side >= low) & (side <= high)).float()
        blank = boxes.new_zeros((len(batch), height * width))
        drawn = blank.scatter_reduce(1, index, marked, "amax")
        maps.append(drawn.view(len(batch), 1, height, width))
    return maps
