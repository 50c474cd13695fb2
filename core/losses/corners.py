"""The loss of detectors that find objects as pairs of corners."""

import torch
from torch import Tensor

from ..structures import CornerMaps
from ..targets.corners import CornerTargets
from .associative_embedding import associative_embedding_loss
from .focal import focal_loss
from .offset import offset_loss


def corner_losses(
    outputs: list[CornerMaps],
    targets: CornerTargets,
    *,
    pull_weight: float = 0.1,
    push_weight: float = 0.1,
    tl_valid: Tensor | None = None,
    br_valid: Tensor | None = None,
) -> dict[str, Tensor]:
    """The terms that CornerNet minimises (section 4.1), in float32 under autocast too.

    Args:
        outputs: one entry a stack of the network.
        targets: of the same pictures.
        pull_weight, push_weight: of the associative-embedding loss. It is summed over pictures
            while the other terms are means, so the published weights belong to the reference's
            chunk sizes.
        tl_valid, br_valid: see :func:`focal_loss`, for the heatmaps of either corner.

    Returns:
        ``heatmap``, ``pull``, ``push``, ``offset``: float32 scalars, weighted and averaged over the
        stacks; the loss is their sum.
    """
    with torch.autocast(outputs[0].tl_heatmap.device.type, enabled=False):
        stacks = [_stack_terms(maps, targets, tl_valid, br_valid) for maps in outputs]
    terms = torch.stack([torch.stack(terms) for terms in stacks]).mean(0)  # [4]
    heatmap, pull, push, offset = terms.unbind()
    return {
        "heatmap": heatmap,
        "pull": pull_weight * pull,
        "push": push_weight * push,
        "offset": offset,
    }


def _stack_terms(
    maps: CornerMaps, targets: CornerTargets, tl_valid: Tensor | None, br_valid: Tensor | None
) -> tuple[Tensor, ...]:
    """Heatmap, pull, push and offset terms of one stack, unweighted."""
    heatmap = focal_loss(maps.tl_heatmap, targets.tl_heatmap, tl_valid)
    heatmap = heatmap + focal_loss(maps.br_heatmap, targets.br_heatmap, br_valid)
    pull, push = associative_embedding_loss(
        maps.tl_embedding, maps.br_embedding, targets.tl_index, targets.br_index, targets.mask
    )
    offset = offset_loss(maps.tl_offset, targets.tl_offset, targets.tl_index, targets.mask)
    offset = offset + offset_loss(maps.br_offset, targets.br_offset, targets.br_index, targets.mask)
    return heatmap, pull, push, offset
