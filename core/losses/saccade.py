"""The loss of CornerNet-Saccade."""

import torch
from torch import Tensor

from ..structures import SaccadeMaps
from ..targets.saccade import SaccadeTargets
from .corners import corner_losses
from .focal import focal_loss


def saccade_losses(
    outputs: list[SaccadeMaps],
    targets: SaccadeTargets,
    *,
    pull_weight: float = 0.1,
    push_weight: float = 0.1,
) -> dict[str, Tensor]:
    """Computes the terms of :func:`corner_losses`, and the focal loss of the attention maps.

    The latter is divided by the number of stacks twice: once as a mean over the stacks, and once
    more with the sum of all terms, as in the reference (its loss weights were chosen with that).

    Args:
        outputs: one entry a stack of the network.
        targets: targets of the same images.
        pull_weight, push_weight: weights of the two terms of the associative-embedding loss.

    Returns:
        ``heatmap``, ``attention``, ``pull``, ``push``, ``offset``: float32 scalars; the loss is
        their sum.
    """
    corners = corner_losses(
        [maps.corners for maps in outputs],
        targets.corners,
        pull_weight=pull_weight,
        push_weight=push_weight,
        tl_valid=targets.tl_valid,
        br_valid=targets.br_valid,
    )
    with torch.autocast(outputs[0].corners.tl_heatmap.device.type, enabled=False):
        levels = [
            focal_loss(logits, target)
            for maps in outputs
            for logits, target in zip(maps.attention, targets.attention, strict=True)
        ]
    attention = torch.stack(levels).sum() / len(outputs) ** 2
    return {"heatmap": corners.pop("heatmap"), "attention": attention, **corners}
