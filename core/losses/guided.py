"""The loss of CentripetalNet, whose corners point to the centre of their box with a guide."""

from torch import Tensor

from ..structures import GuidedMaps
from ..targets.centripetal import CentripetalTargets, guiding_targets
from .centripetal import shift_loss, shift_term
from .corners import heatmap_loss, mean_over_stacks, offset_loss
from .focal import FocalLoss, focal_loss

_BETA = 1.0  # error of either shift below which the cost is quadratic


def guided_losses(
    outputs: list[GuidedMaps],
    targets: CentripetalTargets,
    *,
    guiding_weight: float = 0.05,
    focal: FocalLoss = focal_loss,
) -> dict[str, Tensor]:
    """Computes the loss terms of CentripetalNet (section 3.1), in float32 under autocast too.

    Args:
        outputs: one entry a stack of the network.
        targets: targets of the same images.
        guiding_weight: weight of the guiding shifts of either corner.
        focal: computes the loss of a heatmap.

    Returns:
        ``heatmap``, ``shift``, ``offset``, ``guiding``: float32 scalars, weighted and averaged over
        the stacks; the loss is their sum.
    """
    heatmap, shift, offset, guiding = mean_over_stacks(
        outputs,
        lambda maps: (
            heatmap_loss(maps, targets, focal=focal),
            shift_term(maps, targets, _BETA),
            _offset_term(maps, targets),
            _guiding_loss(maps, targets),
        ),
    )
    return {
        "heatmap": heatmap,
        "shift": shift,
        "offset": offset,
        "guiding": guiding_weight * guiding,
    }


def _offset_term(maps: GuidedMaps, targets: CentripetalTargets) -> Tensor:
    """Loss of the offsets of one stack, both corners together."""
    tl = offset_loss(maps.tl_offset, targets.tl_offset, targets.tl_index, targets.tl_mask)
    return tl + offset_loss(maps.br_offset, targets.br_offset, targets.br_index, targets.br_mask)


def _guiding_loss(maps: GuidedMaps, targets: CentripetalTargets) -> Tensor:
    """Loss of the guiding shifts of one stack, both corners together."""
    tl_guiding, br_guiding = guiding_targets(targets)
    tl = shift_loss(maps.tl_guiding, tl_guiding, targets.tl_index, targets.tl_mask, _BETA)
    return tl + shift_loss(maps.br_guiding, br_guiding, targets.br_index, targets.br_mask, _BETA)
