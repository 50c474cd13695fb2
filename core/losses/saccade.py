"""The loss of CornerNet-Saccade."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..structures import SaccadeMaps
from ..targets.saccade import SaccadeTargets
from .corners import corner_losses
from .focal import FocalLoss, focal_loss


def saccade_losses(
    outputs: list[SaccadeMaps],
    targets: SaccadeTargets,
    *,
    corners: Callable[..., dict[str, Tensor]] = corner_losses,
    focal: FocalLoss = focal_loss,
) -> dict[str, Tensor]:
    """Computes the terms of the corners, and the focal loss of the attention maps.

    The latter is divided by the number of stacks twice: once as a mean over the stacks, and once
    more with the sum of all terms, as in the reference (its loss weights were chosen with that).

    Args:
        outputs: one entry a stack of the network.
        targets: targets of the same images.
        corners: :func:`core.losses.corners.corner_losses`, or that of another pairing.
        focal: computes the loss of a heatmap, and of an attention map.

    Returns:
        ``heatmap``, ``attention`` and the other terms of ``corners``: float32 scalars; the loss is
        their sum.
    """
    terms = corners(
        [maps.corners for maps in outputs],
        targets.corners,
        tl_valid=targets.tl_valid,
        br_valid=targets.br_valid,
        focal=focal,
    )
    with torch.autocast(targets.attention[0].device.type, enabled=False):
        levels = [
            focal(logits, target)
            for maps in outputs
            for logits, target in zip(maps.attention, targets.attention, strict=True)
        ]
    attention = torch.stack(levels).sum() / len(outputs) ** 2
    return {"heatmap": terms.pop("heatmap"), "attention": attention, **terms}
