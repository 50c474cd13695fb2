"""The loss of detectors that find objects as pairs of corners."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from cpools_ext.corners import gather_cells

from ..structures import CentripetalMaps, CornerMaps, GuidedMaps
from ..targets.centripetal import CentripetalTargets
from ..targets.corners import CornerTargets
from .associative_embedding import associative_embedding_loss
from .focal import FocalLoss, focal_loss

AnyMaps = TypeVar("AnyMaps", CornerMaps, CentripetalMaps, GuidedMaps)

EPSILON = 1e-4  # from the reference: the divisor for a batch without objects


def corner_losses(
    outputs: list[CornerMaps],
    targets: CornerTargets,
    *,
    pull_weight: float = 0.1,
    push_weight: float = 0.1,
    tl_valid: Tensor | None = None,
    br_valid: Tensor | None = None,
    focal: FocalLoss = focal_loss,
) -> dict[str, Tensor]:
    """Computes CornerNet's loss terms (section 4.1), in float32 under autocast too.

    Args:
        outputs: one entry a stack of the network.
        targets: targets of the same images.
        pull_weight, push_weight: weights of the two terms of the associative-embedding loss. It is
            summed over images while the other terms are means, so the published weights belong to
            the reference's chunk sizes.
        tl_valid, br_valid: [B, C, H, W] or None; 0 where a cell of either heatmap costs nothing.
        focal: computes the loss of a heatmap.

    Returns:
        ``heatmap``, ``pull``, ``push``, ``offset``: float32 scalars, weighted and averaged over the
        stacks; the loss is their sum.
    """
    heatmap, pull, push, offset = mean_over_stacks(
        outputs,
        lambda maps: (
            heatmap_loss(maps, targets, tl_valid, br_valid, focal),
            *_embedding_terms(maps, targets),
            _offset_term(maps, targets),
        ),
    )
    return {
        "heatmap": heatmap,
        "pull": pull_weight * pull,
        "push": push_weight * push,
        "offset": offset,
    }


def mean_over_stacks(
    outputs: Sequence[AnyMaps], terms: Callable[[AnyMaps], tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """Averages the loss terms of the stacks, which are computed without autocast.

    Args:
        outputs: maps of each stack.
        terms: computes the terms of one stack, float32 scalars.
    """
    with torch.autocast(outputs[0][0].device.type, enabled=False):
        stacks = [torch.stack(terms(maps)) for maps in outputs]
    return torch.stack(stacks).mean(0).unbind()


def heatmap_loss(
    maps: CornerMaps | CentripetalMaps | GuidedMaps,
    targets: CornerTargets | CentripetalTargets,
    tl_valid: Tensor | None = None,
    br_valid: Tensor | None = None,
    focal: FocalLoss = focal_loss,
) -> Tensor:
    """Focal losses of the two heatmaps of one stack together, a float32 scalar."""
    tl = focal(maps.tl_heatmap, targets.tl_heatmap, tl_valid)
    return tl + focal(maps.br_heatmap, targets.br_heatmap, br_valid)


def offset_loss(offset: Tensor, target: Tensor, index: Tensor, mask: Tensor) -> Tensor:
    """Smooth-L1 loss of the offsets at the corners (CornerNet, section 3.2, eq. 3).

    Args:
        offset: [B, 2, H, W], any floating dtype.
        target: [B, M, 2].
        index: int64 [B, M], cells of the corners.
        mask: bool [B, M], False for padding.

    Returns:
        The sum over the batch's objects, divided by their number; a float32 scalar.
    """
    found = gather_cells(offset, index).float()
    cost = F.smooth_l1_loss(found, target.float(), reduction="none")  # [B, M, 2]
    mask = mask.bool()
    return cost.masked_fill(~mask[:, :, None], 0).sum() / (mask.sum() + EPSILON)


def _embedding_terms(maps: CornerMaps, targets: CornerTargets) -> tuple[Tensor, Tensor]:
    """Pull and push terms of one stack, unweighted."""
    embeddings = maps.tl_embedding, maps.br_embedding
    return associative_embedding_loss(*embeddings, targets.tl_index, targets.br_index, targets.mask)


def _offset_term(maps: CornerMaps, targets: CornerTargets) -> Tensor:
    """Loss of the offsets of one stack, both corners together."""
    tl = offset_loss(maps.tl_offset, targets.tl_offset, targets.tl_index, targets.mask)
    return tl + offset_loss(maps.br_offset, targets.br_offset, targets.br_index, targets.mask)
