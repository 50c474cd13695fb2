"""Maps of offsets as distributions, and back."""

import torch
from torch import Tensor

from core.layers.distribution import LOWEST, STEP, VALUES, mean_offset


def bins_of(offset: Tensor, dim: int = -1) -> Tensor:
    """Logits of distributions over the two nearest values, whose means are ``offset``.

    Dimension ``dim`` of ``offset`` is x and y, and of the result 2 * VALUES.
    """
    place = ((offset.movedim(dim, -1) - LOWEST) / STEP)[..., None]  # [..., 2, 1]
    share = (1 - (place - torch.arange(VALUES)).abs()).clamp(min=0)
    return (share + 1e-12).log().flatten(-2).float().movedim(-1, dim)


def offsets_of(bins: Tensor) -> Tensor:
    """Means [B, 2, H, W] of the distributions of a map [B, 2 * VALUES, H, W]."""
    return mean_offset(bins.movedim(1, -1)).movedim(-1, 1)
