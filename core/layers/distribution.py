"""Offsets as distributions over fixed values (Generalized Focal Loss, arXiv:2006.04388, section 3).

A corner at a blurred edge is not at one place; a distribution can say so, and its mean is more
precise than a number that is regressed.
"""

import torch
from torch import Tensor

LOWEST, STEP, VALUES = -1.5, 0.5, 9  # cells: -1.5 to 2.5, and a window of 3 cells has -1 to 2
WIDEST_WINDOW = 3  # cells, whose offsets lie well within these values


def mean_offset(logits: Tensor) -> Tensor:
    """Computes the means of distributions (eq. 5): float32 [..., 2], in cells.

    Args:
        logits: [..., 2 * VALUES], those of x first; any floating dtype.
    """
    weights = logits.float().unflatten(-1, (2, VALUES)).softmax(-1)
    values = LOWEST + STEP * torch.arange(VALUES, device=logits.device)
    return (weights * values).sum(-1)


def distribution_loss(logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Cross entropy with the two values that a target lies between (eq. 6).

    Args:
        logits: [B, N, 2 * VALUES].
        target: float32 [B, N, 2], in cells.
        mask: bool [B, N], False for padding.

    Returns:
        float32 [B, N], the sum over x and y; 0 for padding.
    """
    logs = logits.float().unflatten(-1, (2, VALUES)).log_softmax(-1)  # [B, N, 2, VALUES]
    place = ((target - LOWEST) / STEP).clamp(0, VALUES - 1)
    below = place.floor().clamp(max=VALUES - 2)
    share = (place - below)[..., None]  # of the value above
    index = below.long()[..., None]
    cost = -((1 - share) * logs.gather(-1, index) + share * logs.gather(-1, index + 1))
    return cost.flatten(2).sum(2).masked_fill(~mask, 0)
