"""The windows about some cells of a map, by one operator each way."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.library import Library

from cpools_ext import native

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_library = Library("cpools_ext", "FRAGMENT")
_library.define("gather_windows(Tensor maps, Tensor index, int side) -> Tensor")
_library.define("gather_windows_backward(Tensor grad, Tensor index, int[2] size) -> Tensor")


def gather_windows(maps: Tensor, index: Tensor, side: int) -> Tensor:
    """Reads the windows about some cells; what lies outside the map is 0.

    There are native kernels for CUDA, where either pass is one launch. The gradient of the maps is
    added up in float32, the same way every time; it has no derivative. Elsewhere, and in maps that
    are float64 or not channels_last, these are operators of standard PyTorch.

    Args:
        maps: [B, D, H, W].
        index: int64 [B, M], number ``y * W + x`` of a window's middle.
        side: side of the windows, odd.

    Returns:
        [B * M, D, side, side] in channels_last.
    """
    if _is_native(maps):
        windows: Tensor = _GatherWindows.apply(maps, index, side)
        return windows
    return _gather(maps, index, side)


def _is_native(maps: Tensor) -> bool:
    return (
        maps.is_cuda
        and not torch.compiler.is_compiling()
        and maps.dtype in DTYPES
        and maps.is_contiguous(memory_format=torch.channels_last)
    )


class _GatherWindows(torch.autograd.Function):
    """The operators with their gradient; a function, as it costs the host less than a dispatch."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, index: Tensor, side: int) -> Tensor:
        ctx.size = maps.shape[2:]
        ctx.save_for_backward(index)
        return torch.ops.cpools_ext.gather_windows(maps, index, side)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        return torch.ops.cpools_ext.gather_windows_backward(grad, index, ctx.size), None, None


def _cells(
    index: Tensor, side: int, size: Sequence[int]
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Images, rows and columns of the windows' cells, within the map; and which do lie there."""
    height, width = size
    rows = torch.arange(index.shape[0], device=index.device)[:, None, None, None]
    reach = torch.arange(-(side // 2), side // 2 + 1, device=index.device)
    y = (index // width)[..., None, None] + reach[:, None]  # [B, M, side, 1]
    x = (index % width)[..., None, None] + reach  # [B, M, 1, side]
    # Flattened, because compilers lose the strides of what they keep for the backward pass.
    rows, y, x = (part.flatten() for part in torch.broadcast_tensors(rows, y, x))
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return (rows, y.clamp(0, height - 1), x.clamp(0, width - 1)), inside[:, None]


def _gather(maps: Tensor, index: Tensor, side: int) -> Tensor:
    """The operator in standard PyTorch."""
    cells, inside = _cells(index, side, maps.shape[2:])
    vectors = torch.where(inside, maps.permute(0, 2, 3, 1)[cells], 0)  # [B * M * side * side, D]
    return vectors.unflatten(0, (-1, side, side)).permute(0, 3, 1, 2)


def _gather_backward(grad: Tensor, index: Tensor, size: Sequence[int]) -> Tensor:
    """The operator of the gradient in standard PyTorch."""
    cells, inside = _cells(index, grad.shape[3], size)
    vectors = torch.where(inside, grad.permute(0, 2, 3, 1).flatten(0, 2), 0)
    sums = grad.new_zeros((index.shape[0], *size, grad.shape[1]), dtype=torch.float32)
    return (
        sums.index_put_(cells, vectors.float(), accumulate=True).to(grad.dtype).permute(0, 3, 1, 2)
    )


_library.impl("gather_windows", _gather, "CompositeExplicitAutograd")
_library.impl("gather_windows_backward", _gather_backward, "CompositeExplicitAutograd")
native.load()
