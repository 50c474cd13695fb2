"""Four ways of corner pooling, for benchmarks/operators.py to compare."""

from collections.abc import Callable

import torch
from torch import Tensor

from cpools_ext import DIRECTIONS, corner_pool, reference

Pool = Callable[[Tensor, str], Tensor]


class ReferencePool(torch.autograd.Function):
    """Corner pooling by the reference's algorithm, row after row in both passes."""

    @staticmethod
    def forward(ctx, x: Tensor, dim: int, reverse: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.dim, ctx.reverse = dim, reverse
        maxima = torch.empty_like(x)
        rows = range(x.size(dim))[:: -1 if reverse else 1]
        before = maxima.select(dim, rows[0]).copy_(x.select(dim, rows[0]))
        for row in rows[1:]:
            before = torch.maximum(x.select(dim, row), before, out=maxima.select(dim, row))
        return maxima

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        result = torch.zeros_like(x)
        rows = range(x.size(ctx.dim))[:: -1 if ctx.reverse else 1]
        greatest = x.select(ctx.dim, rows[0]).clone(memory_format=torch.contiguous_format)
        place = torch.full_like(greatest, rows[0], dtype=torch.int64)
        for row in rows:
            values = x.select(ctx.dim, row)
            newer = values > greatest
            greatest.masked_scatter_(newer, values.masked_select(newer))
            place.masked_fill_(newer, row)
            gradient = grad.select(ctx.dim, row).unsqueeze(ctx.dim)
            result.scatter_add_(ctx.dim, place.unsqueeze(ctx.dim), gradient)
        return result, None, None


class FallbackPool(torch.autograd.Function):
    """Corner pooling as it runs where there is no binary."""

    @staticmethod
    def forward(ctx, x: Tensor, dim: int, reverse: bool) -> Tensor:
        maxima, record = reference.corner_pool(x, dim, reverse)
        ctx.save_for_backward(record)
        ctx.dim, ctx.reverse = dim, reverse
        return maxima

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (record,) = ctx.saved_tensors
        return reference.corner_pool_backward(grad, record, ctx.dim, ctx.reverse), None, None


def cummax_pool(x: Tensor, direction: str) -> Tensor:
    """Pools by flip + cummax + flip: right maxima, but gradients go to the last of equals."""
    dim, reverse = DIRECTIONS[direction]
    return x.flip(dim).cummax(dim).values.flip(dim) if reverse else x.cummax(dim).values


POOLS: dict[str, Pool] = {
    "the reference's algorithm": lambda x, direction: ReferencePool.apply(
        x, *DIRECTIONS[direction]
    ),
    "flip + cummax + flip": cummax_pool,
    "the fallback": lambda x, direction: FallbackPool.apply(x, *DIRECTIONS[direction]),
    "ours": corner_pool,
}


def both_passes(pool: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> Callable[[], None]:
    """Makes a function that computes a forward and a backward pass."""
    leaf = x.detach().requires_grad_()

    def run() -> None:
        pool(leaf).backward(grad)
        leaf.grad = None

    return run
