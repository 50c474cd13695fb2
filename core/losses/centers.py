"""The loss of CenterNet."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cpools_ext.corners import gather_cells

from ..structures import CenterMaps
from ..targets.centers import CenterTargets
from .focal import FocalLoss, focal_loss

EPSILON = 1e-4  # from the reference: the divisor for a batch without objects


def center_losses(
    outputs: list[CenterMaps],
    targets: CenterTargets,
    *,
    size_weight: float = 0.1,
    focal: FocalLoss = focal_loss,
) -> dict[str, Tensor]:
    """Computes CenterNet's loss terms (sections 3 and 4), in float32 under autocast too.

    Args:
        outputs: one entry a stack of the network.
        targets: targets of the same images.
        size_weight: weight of the sizes, which are in cells.
        focal: computes the loss of a heatmap.

    Returns:
        ``heatmap``, ``size``, ``offset``: float32 scalars, weighted and averaged over the stacks;
        the loss is their sum.
    """
    with torch.autocast(outputs[0].heatmap.device.type, enabled=False):
        stacks = [_stack_terms(maps, targets, focal) for maps in outputs]
    terms = torch.stack([torch.stack(terms) for terms in stacks]).mean(0)  # [3]
    heatmap, size, offset = terms.unbind()
    return {"heatmap": heatmap, "size": size_weight * size, "offset": offset}


def l1_loss(maps: Tensor, target: Tensor, index: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute error of a vector at the centres (CenterNet, eq. 2 and 3).

    Args:
        maps: [B, D, H, W], any floating dtype.
        target: [B, M, D].
        index: int64 [B, M], cells of the centres.
        mask: bool [B, M], False where there is no object.

    Returns:
        The mean over the batch's objects and the D components; a float32 scalar.
    """
    found = gather_cells(maps, index).float()
    cost = F.l1_loss(found, target.float(), reduction="none")  # [B, M, D]
    mask = mask.bool()[..., None].expand_as(cost)  # [B, M, D]
    return cost.masked_fill(~mask, 0).sum() / (mask.sum() + EPSILON)


def _stack_terms(maps: CenterMaps, targets: CenterTargets, focal: FocalLoss) -> tuple[Tensor, ...]:
    """Heatmap, size and offset terms of one stack, unweighted."""
    return (
        focal(maps.heatmap, targets.heatmap),
        l1_loss(maps.size, targets.size, targets.index, targets.mask),
        l1_loss(maps.offset, targets.offset, targets.index, targets.mask),
    )
