"""Doubling of maps by repeating their cells."""

import contextlib

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def repeat_cells(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarges a map to a size by repeating its cells, in its own dtype.

    Autocast on a GPU would make it float32, and all that is added to it.

    Args:
        x: [B, C, h, w].
        size: H and W of the result [B, C, H, W].
    """
    with torch.autocast("cuda", enabled=False) if x.is_cuda else contextlib.nullcontext():
        return F.interpolate(x, size, mode="nearest")


class RepeatCells(nn.Module):
    """Doubles a map by repeating its cells."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, 2 * H, 2 * W]."""
        height, width = x.shape[2:]
        return repeat_cells(x, (2 * height, 2 * width))
