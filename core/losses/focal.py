"""The focal loss of keypoint heatmaps."""

from typing import Any, Protocol

import torch
from torch import Tensor

MIN_PROBABILITY = 1e-4


class FocalLoss(Protocol):
    """:func:`focal_loss`, or another way to compute it."""

    def __call__(self, logits: Tensor, target: Tensor, valid: Tensor | None = None, /) -> Tensor:
        """Computes a float32 scalar."""
        ...


def focal_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Focal loss with less weight on the negatives near a keypoint (CornerNet, section 3.2, eq. 1).

    With p = sigmoid(logit), clamped to [1e-4, 1 - 1e-4], a cell whose target is 1 costs
    ``-log(p) (1 - p)^2`` and any other ``-log(1 - p) p^2 (1 - target)^4``. The sum over all cells
    is divided by the number of positive cells, if there is one. A clamped p has no gradient.

    Args:
        logits: [B, C, H, W], any floating dtype.
        target: [B, C, H, W], in [0, 1]; exactly 1 at keypoints.
        valid: [B, C, H, W] or None; 0 where a cell costs nothing. Positive cells are counted there
            too.

    Returns:
        A float32 scalar.
    """
    positives = (target == 1).sum()
    cost: Tensor = _FocalCost.apply(logits, target, valid)
    return cost / positives.clamp(min=1)


def fusible_focal_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Computes :func:`focal_loss` in a form for a compiler, which derives the backward pass.

    Compiled, either pass reads the inputs once and keeps nothing besides them. Uncompiled, a dozen
    float32 maps would be kept for the backward pass.
    """
    signed = _signed(logits, target)
    wrong, right = _clamp(signed.sigmoid()), _clamp((-signed).sigmoid())
    cost = -right.log() * wrong.square() * _weight(target, valid)
    return cost.sum() / (target == 1).sum().clamp(min=1)


class _FocalCost(torch.autograd.Function):
    """Sum of the costs of all cells; only the inputs are kept for the backward pass.

    Both kinds of cells cost ``-weight log(1 - q) q^2``, q the probability of the wrong answer.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, valid: Tensor | None) -> Tensor:
        ctx.save_for_backward(logits, target, valid)
        signed = _signed(logits, target)
        wrong = _clamp_(signed.sigmoid())
        cost = _clamp_(signed.neg_().sigmoid_()).log_()
        return -cost.mul_(wrong.square_()).mul_(_weight(target, valid)).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        logits, target, valid = ctx.saved_tensors
        signed = _signed(logits, target)
        wrong = signed.sigmoid()
        inside = (wrong >= MIN_PROBABILITY) & (wrong <= 1 - MIN_PROBABILITY)
        right = _clamp_(signed.neg_().sigmoid_())
        _clamp_(wrong)
        slope = right.log().mul_(right).mul_(-2).add_(wrong).mul_(wrong.square_())
        slope.mul_(_weight(target, valid)).mul_(inside).mul_(upstream)
        return torch.where(target == 1, -slope, slope).to(logits.dtype), None, None


def _signed(logits: Tensor, target: Tensor) -> Tensor:
    """Logits of the wrong answer, float32, in new memory."""
    logits = logits.float()
    return torch.where(target == 1, -logits, logits)


def _clamp(probabilities: Tensor) -> Tensor:
    return probabilities.clamp(MIN_PROBABILITY, 1 - MIN_PROBABILITY)


def _clamp_(probabilities: Tensor) -> Tensor:
    return probabilities.clamp_(MIN_PROBABILITY, 1 - MIN_PROBABILITY)


def _weight(target: Tensor, valid: Tensor | None) -> Tensor:
    weight = (1 - target.float()).square_().square_()
    weight.masked_fill_(target == 1, 1)
    return weight if valid is None else weight.mul_(valid)
