"""The loss of CentripetalNet, whose corners point to the centre of their box with a guide."""

import torch
from torch import Tensor

from ..structures import GuidedMaps
from ..targets.centripetal import CentripetalTargets, guiding_targets
from .centripetal import shift_loss
from .corners import offset_loss
from .focal import focal_loss

_BETA = 1.0  # error of either shift below which the cost is quadratic


def guided_losses(
    outputs: list[GuidedMaps], targets: CentripetalTargets, *, guiding_weight: float = 0.05
) -> dict[str, Tensor]:
    """Computes the loss terms of CentripetalNet (section 3.1), in float32 under autocast too.

    Args:
        outputs: one entry a stack of the network.
        targets: targets of the same images.
        guiding_weight: weight of the guiding shifts of either corner.

    Returns:
        ``heatmap``, ``shift``, ``offset``, ``guiding``: float32 scalars, weighted and averaged over
        the stacks; the loss is their sum.
    """
    with torch.autocast(outputs[0].tl_heatmap.device.type, enabled=False):
        stacks = [torch.stack(_stack_terms(maps, targets)) for maps in outputs]
    heatmap, shift, offset, guiding = torch.stack(stacks).mean(0).unbind()
    return {
        "heatmap": heatmap,
        "shift": shift,
        "offset": offset,
        "guiding": guiding_weight * guiding,
    }


def _stack_terms(maps: GuidedMaps, targets: CentripetalTargets) -> tuple[Tensor, ...]:
    """Heatmap, shift, offset and guiding terms of one stack, unweighted."""
    heatmap = focal_loss(maps.tl_heatmap, targets.tl_heatmap)
    heatmap = heatmap + focal_loss(maps.br_heatmap, targets.br_heatmap)
    tl, br = (targets.tl_index, targets.tl_mask), (targets.br_index, targets.br_mask)
    shift = shift_loss(maps.tl_shift, targets.shift, *tl, _BETA)
    shift = shift + shift_loss(maps.br_shift, targets.shift, *br, _BETA)
    offset = offset_loss(maps.tl_offset, targets.tl_offset, *tl)
    offset = offset + offset_loss(maps.br_offset, targets.br_offset, *br)
    tl_guiding, br_guiding = guiding_targets(targets)
    guiding = shift_loss(maps.tl_guiding, tl_guiding, *tl, _BETA)
    guiding = guiding + shift_loss(maps.br_guiding, br_guiding, *br, _BETA)
    return heatmap, shift, offset, guiding
