"""Batch norm in training, with an addition and a ReLU: one pass over the values for the three."""

import functools
import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.library import Library

from cpools_ext import native

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_VECTOR = 16  # bytes of channels that a thread reads together

_library = Library("cpools_ext", "FRAGMENT")
_library.define(
    "batch_norm(Tensor x, Tensor? added, Tensor weight, Tensor bias, Tensor(a!)? running_mean, "
    "Tensor(b!)? running_var, Tensor(c!)? batches, float momentum, float eps, bool relu, "
    "float ceiling) -> (Tensor, Tensor, Tensor)"
)
_library.define(
    "batch_norm_backward(Tensor grad, Tensor x, Tensor? y, Tensor weight, Tensor bias, "
    "Tensor mean, Tensor inverse_deviation, bool relu, float ceiling) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)


def batch_norm(
    x: Tensor,
    parameters: tuple[Tensor, Tensor],
    running: tuple[Tensor | None, Tensor | None, Tensor | None],
    momentum: float,
    eps: float,
    added: Tensor | None = None,
    ceiling: float | None = None,
) -> Tensor:
    """Normalises the channels by their mean and variance in the batch (Ioffe and Szegedy 2015).

    The same as ``relu(batch_norm(x) + added)`` in training mode, with one rounding instead of
    three. Statistics are in float32 (arXiv:1502.03167, algorithm 1). No second derivative.

    Args:
        x: [B, C, H, W] in channels_last, of a dtype and shape for which :func:`is_native`, or any
            where there is no native kernel.
        parameters: weight and bias, float32 [C].
        running: mean [C], unbiased variance [C] and number of batches, which are updated in place;
            None: there is none.
        momentum: weight of this batch in the running statistics.
        eps: what is added to the variance.
        added: what is added after it, of the shape, dtype and layout of ``x``; None: nothing.
        ceiling: highest value of a ReLU at the end, infinity for the usual one; None: no ReLU.

    Returns:
        [B, C, H, W] of the dtype and layout of ``x``.
    """
    return _BatchNorm.apply(x, added, *parameters, (*running, momentum, eps), ceiling)


def is_native(x: Tensor, added: Tensor | None = None) -> bool:
    """True if there is a kernel for tensors like these, and no compiler that would do better."""
    return (
        x.is_cuda
        and not torch.compiler.is_compiling()
        and _has_kernel()
        and _fits(x)
        and (added is None or (added.shape == x.shape and added.dtype == x.dtype and _fits(added)))
    )


@functools.cache
def _has_kernel() -> bool:
    native.load()
    return torch._C._dispatch_has_kernel_for_dispatch_key("cpools_ext::batch_norm", "CUDA")


def _fits(x: Tensor) -> bool:
    return (
        x.dim() == 4
        and x.dtype in DTYPES
        and x.numel() > x.shape[1]
        and x.shape[1] * x.element_size() % _VECTOR == 0
        and x.data_ptr() % _VECTOR == 0
        and x.is_contiguous(memory_format=torch.channels_last)
    )


class _BatchNorm(torch.autograd.Function):
    """The operators with their gradient; a function, as it costs the host less than a dispatch."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        added: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        statistics: tuple[Any, ...],
        ceiling: float | None,
    ) -> Tensor:
        ctx.relu, ctx.ceiling = ceiling is not None, math.inf if ceiling is None else ceiling
        y, *of_batch = torch.ops.cpools_ext.batch_norm(
            x, added, weight, bias, *statistics, ctx.relu, ctx.ceiling
        )
        ctx.added = added is not None
        kept = y if ctx.relu and ctx.added else None  # otherwise x tells where the ReLU passes
        ctx.save_for_backward(x, kept, weight, bias, *of_batch)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_grad, added_grad, weight_grad, bias_grad = torch.ops.cpools_ext.batch_norm_backward(
            grad, *ctx.saved_tensors, ctx.relu, ctx.ceiling
        )
        return x_grad, added_grad if ctx.added else None, weight_grad, bias_grad, None, None


_ROWS = (0, 2, 3)


def _forward(
    x: Tensor,
    added: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    batches: Tensor | None,
    momentum: float,
    eps: float,
    relu: bool,
    ceiling: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The operator in standard PyTorch."""
    variance, mean = torch.var_mean(x.float(), _ROWS, correction=0)
    rows = x.numel() / x.shape[1]
    if batches is not None:
        batches += 1
    if running_mean is not None:
        running_mean.lerp_(mean, momentum)
    if running_var is not None:
        running_var.lerp_(variance * (rows / (rows - 1)), momentum)
    inverse_deviation = (variance + eps).rsqrt()
    y = _affine(x, weight, bias, mean, inverse_deviation)
    if added is not None:
        y = y + added.float()
    y = y.clamp(0, ceiling) if relu else y
    return y.to(x.dtype), mean, inverse_deviation


def _backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    inverse_deviation: Tensor,
    relu: bool,
    ceiling: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The operator of the gradient in standard PyTorch."""
    if relu:
        if y is None:
            y = _affine(x, weight, bias, mean, inverse_deviation).to(x.dtype)
        grad = grad.masked_fill((y <= 0) | (y >= ceiling), 0)
    wide, distance = grad.float(), x.float() - _cells(mean)
    bias_grad = wide.sum(_ROWS)
    weight_grad = (wide * distance).sum(_ROWS) * inverse_deviation
    rows = x.numel() / x.shape[1]
    slope = _cells(weight_grad * inverse_deviation / rows)
    x_grad = (wide - _cells(bias_grad / rows) - distance * slope) * _cells(
        inverse_deviation * weight
    )
    return x_grad.to(x.dtype), grad, weight_grad, bias_grad


def _affine(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse_deviation: Tensor
) -> Tensor:
    return (x.float() - _cells(mean)) * _cells(inverse_deviation * weight) + _cells(bias)


def _cells(values: Tensor) -> Tensor:
    """[C] -> [1, C, 1, 1]."""
    return values[None, :, None, None]


_library.impl("batch_norm", _forward, "CompositeExplicitAutograd")
_library.impl("batch_norm_backward", _backward, "CompositeExplicitAutograd")
