"""The focal loss of keypoint heatmaps, in one operator each way."""

from typing import Any

import torch
from torch import Tensor
from torch.library import Library, register_fake

from cpools_ext import native
from cpools_ext.ops import empty_like, layout_of

MIN_PROBABILITY = 1e-4

_library = Library("cpools_ext", "FRAGMENT")
_library.define("focal_loss(Tensor logits, Tensor target, Tensor? valid) -> (Tensor, Tensor)")
_library.define(
    "focal_loss_backward(Tensor grad, Tensor logits, Tensor target, Tensor? valid, "
    "Tensor divisor) -> Tensor"
)


def focal_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Focal loss with less weight on the negatives near a keypoint (CornerNet, section 3.2, eq. 1).

    With p = sigmoid(logit), clamped to [1e-4, 1 - 1e-4], a cell whose target is 1 costs
    ``-log(p) (1 - p)^2`` and any other ``-log(1 - p) p^2 (1 - target)^4``. The sum over all cells
    is divided by the number of positive cells, if there is one. A clamped p has no gradient.

    There are native kernels for CUDA, where either pass reads the maps once; elsewhere it is a
    dozen operators of standard PyTorch. Maps in another layout than the logits are copied.

    Args:
        logits: [B, C, H, W], any floating dtype; they are read in float32.
        target: [B, C, H, W], in [0, 1]; exactly 1 at keypoints.
        valid: [B, C, H, W] or None; 0 where a cell costs nothing, else 1. Positive cells are
            counted there too.

    Returns:
        A float32 scalar. It has no second derivative.

    Raises:
        ValueError: the maps have different shapes.
    """
    for other in (target, valid):
        if other is not None and other.shape != logits.shape:
            raise ValueError(
                f"the maps of a focal loss must agree, not {tuple(logits.shape)} "
                f"and {tuple(other.shape)}"
            )
    loss: Tensor = _FocalLoss.apply(logits, target, valid)
    return loss


class _FocalLoss(torch.autograd.Function):
    """The operators; this costs less time a call than autograd that is registered with them."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, valid: Tensor | None) -> Tensor:
        loss, divisor = torch.ops.cpools_ext.focal_loss(logits, target, valid)
        ctx.save_for_backward(logits, target, valid, divisor)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        return torch.ops.cpools_ext.focal_loss_backward(upstream, *ctx.saved_tensors), None, None


def wrong_logits(logits: Tensor, target: Tensor) -> Tensor:
    """Logits of the wrong answer, float32, in new memory.

    Both kinds of cells cost ``-weight log(1 - q) q^2``, q the probability of the wrong answer.
    """
    logits = logits.float()
    return torch.where(target == 1, -logits, logits)


def cell_weights(target: Tensor, valid: Tensor | None) -> Tensor:
    """Weights of the cells' costs, float32, in new memory."""
    weight = (1 - target.float()).square_().square_()
    weight.masked_fill_(target == 1, 1)
    return weight if valid is None else weight.mul_(valid)


def _fallback(logits: Tensor, target: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    target, valid = _in_layout_of(logits, target, valid)
    divisor = (target == 1).sum().clamp(min=1).float()
    signed = wrong_logits(logits, target)
    wrong = _clamp_(signed.sigmoid())
    cost = _clamp_(signed.neg_().sigmoid_()).log_()
    total = -cost.mul_(wrong.square_()).mul_(cell_weights(target, valid)).sum()
    return total / divisor, divisor


def _backward_fallback(
    grad: Tensor, logits: Tensor, target: Tensor, valid: Tensor | None, divisor: Tensor
) -> Tensor:
    target, valid = _in_layout_of(logits, target, valid)
    signed = wrong_logits(logits, target)
    wrong = signed.sigmoid()
    inside = (wrong >= MIN_PROBABILITY) & (wrong <= 1 - MIN_PROBABILITY)
    right = _clamp_(signed.neg_().sigmoid_())
    _clamp_(wrong)
    slope = right.log().mul_(right).mul_(-2).add_(wrong).mul_(wrong.square_())
    slope.mul_(cell_weights(target, valid)).mul_(inside).mul_(grad / divisor)
    return torch.where(target == 1, -slope, slope).to(logits.dtype)


def _in_layout_of(
    logits: Tensor, target: Tensor, valid: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Copies maps of another layout once, as every operator would walk through them slowly."""
    layout = layout_of(logits)
    target = target.contiguous(memory_format=layout)
    return target, None if valid is None else valid.contiguous(memory_format=layout)


def _clamp_(probabilities: Tensor) -> Tensor:
    return probabilities.clamp_(MIN_PROBABILITY, 1 - MIN_PROBABILITY)


def _fake(logits: Tensor, target: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    loss = torch.empty((), dtype=torch.float32, device=logits.device)
    return loss, torch.empty_like(loss)


def _backward_fake(
    grad: Tensor, logits: Tensor, target: Tensor, valid: Tensor | None, divisor: Tensor
) -> Tensor:
    return empty_like(logits, layout_of(logits))


_library.impl("focal_loss", _fallback, "CompositeExplicitAutograd")
_library.impl("focal_loss_backward", _backward_fallback, "CompositeExplicitAutograd")
register_fake("cpools_ext::focal_loss", _fake, lib=_library)
register_fake("cpools_ext::focal_loss_backward", _backward_fake, lib=_library)
native.load()
