"""Every second cell of a map."""

from typing import Any

import torch
from torch import Tensor


def every_cell(x: Tensor, stride: int) -> Tensor:
    """Takes every ``stride``-th row and column of a map, from the first on.

    A 1x1 convolution of them is a strided one, whose own gradient is slow.

    Args:
        x: [B, C, H, W].
        stride: distance of the cells.

    Returns:
        [B, C, H / stride, W / stride], rounded up; a view. Its gradient has the layout of that of
        the cells, which for a slice would be contiguous.
    """
    if torch.compiler.is_compiling() or not x.requires_grad:
        return x[:, :, ::stride, ::stride]
    cells: Tensor = _EveryCell.apply(x, stride)
    return cells


class _EveryCell(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int) -> Tensor:
        ctx.shape, ctx.stride = x.shape, stride
        return x[:, :, ::stride, ::stride]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        in_channels_last = grad.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if in_channels_last else torch.contiguous_format
        whole = torch.empty(ctx.shape, dtype=grad.dtype, device=grad.device, memory_format=layout)
        whole.zero_()[:, :, :: ctx.stride, :: ctx.stride] = grad
        return whole, None
