"""The focal loss of keypoint heatmaps."""

from typing import Protocol

from torch import Tensor

from cpools_ext.focal import MIN_PROBABILITY, cell_weights, focal_loss, wrong_logits

__all__ = ["FocalLoss", "focal_loss", "fusible_focal_loss"]


class FocalLoss(Protocol):
    """:func:`focal_loss`, or another way to compute it."""

    def __call__(self, logits: Tensor, target: Tensor, valid: Tensor | None = None, /) -> Tensor:
        """Computes a float32 scalar."""
        ...


def fusible_focal_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Computes :func:`focal_loss` in a form for a compiler, which derives the backward pass.

    Compiled, either pass reads the inputs once and keeps nothing besides them. Uncompiled, a dozen
    float32 maps would be kept for the backward pass.
    """
    signed = wrong_logits(logits, target)
    wrong, right = _clamp(signed.sigmoid()), _clamp((-signed).sigmoid())
    cost = -right.log() * wrong.square() * cell_weights(target, valid)
    return cost.sum() / (target == 1).sum().clamp(min=1)


def _clamp(probabilities: Tensor) -> Tensor:
    return probabilities.clamp(MIN_PROBABILITY, 1 - MIN_PROBABILITY)
