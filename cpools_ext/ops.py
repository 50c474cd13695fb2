"""Corner pooling: schemas, fake kernels, autograd, and the functions that call the operators."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.library import Library, register_autograd, register_fake, register_vmap

from cpools_ext import native, portable, reference

# Dimension of the scan in [..., H, W], and True if it runs from the last position to the first:
# "top" is the maximum of a row and all below it, scanned from the last row upwards.
DIRECTIONS: dict[str, tuple[int, bool]] = {
    "top": (-2, True),
    "bottom": (-2, False),
    "left": (-1, True),
    "right": (-1, False),
}

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

library = Library("cpools_ext", "DEF")
library.define("corner_pool(Tensor x, int dim, bool reverse) -> (Tensor, Tensor)")
library.define("describe_build() -> str")
library.define("cpu_kernels() -> str")
library.define("corner_pool_backward(Tensor grad, Tensor record, int dim, bool reverse) -> Tensor")


def corner_pool(x: Tensor, direction: str) -> Tensor:
    """Corner pooling: the running maximum of each line of a map (CornerNet, section 3.2).

    On ties the gradient goes to the element that comes first in the scan. NaN spreads along the
    scan as in :func:`torch.cummax`.

    Args:
        x: Tensor[..., H, W], float32, float64, bfloat16 or float16; channels_last is kept.
        direction: ``"top"``: ``y[i] = max(x[i:])`` along H; ``"bottom"``: ``max(x[:i+1])`` along
            H; ``"left"`` and ``"right"``: the same along W.

    Returns:
        Tensor[..., H, W] of the dtype of ``x``.

    Raises:
        ValueError: unknown direction, another dtype, fewer than two dimensions.
        NotImplementedError: a derivative in forward mode or by ``torch.func`` is requested.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"direction {direction!r} must be one of {', '.join(DIRECTIONS)}")
    check_map(x)
    dim, reverse = DIRECTIONS[direction]
    if torch.compiler.is_exporting():
        return portable.corner_pool(x, dim, reverse)
    return torch.ops.cpools_ext.corner_pool(x, dim, reverse)[0]


def check_map(x: Tensor) -> None:
    """Checks a map's rank, dtype and derivatives, with the errors of :func:`corner_pool`."""
    if x.dim() < 2 or x.dtype not in DTYPES:
        raise ValueError(
            "corner pooling takes [..., H, W] of float32, float64, bfloat16 or float16, "
            f"not {x.dtype} {tuple(x.shape)}"
        )
    if not torch.compiler.is_compiling() and _wants_transform(x):
        raise NotImplementedError(
            "corner pooling has no forward-mode derivative and none by the transforms of "
            "torch.func; backward() and torch.autograd.grad work"
        )


def _wants_transform(x: Tensor) -> bool:
    """True if results should carry a tangent or a gradient of torch.func, which would be lost."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(x):
        differentiated = functorch.is_gradtrackingtensor(x)
        if differentiated and (x.requires_grad or forward_ad.unpack_dual(x).tangent is not None):
            return True
        x = functorch.get_unwrapped(x)
    return forward_ad.unpack_dual(x).tangent is not None


def layout_of(x: Tensor) -> torch.memory_format:
    """The memory format of the results: channels_last if ``x`` has it, else contiguous."""
    channels_last = torch.channels_last
    if x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=channels_last):
        return channels_last
    return torch.contiguous_format


def empty_like(x: Tensor, layout: torch.memory_format) -> Tensor:
    """An uninitialized tensor like ``x``, in a memory format."""
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=layout)


def empty_record(x: Tensor, dim: int, layout: torch.memory_format) -> Tensor:
    """An uninitialized record of a scan of ``x`` along ``dim``."""
    sizes = list(x.shape)
    sizes[dim] = (sizes[dim] + reference.RECORD_BITS - 1) // reference.RECORD_BITS
    return torch.empty(sizes, dtype=torch.uint8, device=x.device, memory_format=layout)


def to_front(x: Tensor, dim: int | None, size: int) -> Tensor:
    """Moves the batch dimension of vmap to the front, or adds one of ``size`` if there is none."""
    return x.movedim(dim, 0) if dim is not None else x.expand(size, *x.shape)


def _corner_pool_fallback(x: Tensor, dim: int, reverse: bool) -> tuple[Tensor, Tensor]:
    native.announce_fallback()
    layout = layout_of(x)
    maxima, record = reference.corner_pool(x, dim, reverse)
    return maxima.contiguous(memory_format=layout), record.contiguous(memory_format=layout)


def backward_fallback(grad: Tensor, record: Tensor, dim: int, reverse: bool) -> Tensor:
    expected = empty_record(grad, dim, torch.contiguous_format).shape
    if record.dtype != torch.uint8 or record.shape != expected:
        raise ValueError(
            f"the record of a scan of {tuple(grad.shape)} is uint8 {tuple(expected)}, "
            f"not {record.dtype} {tuple(record.shape)}"
        )
    result = reference.corner_pool_backward(grad, record, dim, reverse)
    return result.contiguous(memory_format=layout_of(grad))


def _corner_pool_fake(x: Tensor, dim: int, reverse: bool) -> tuple[Tensor, Tensor]:
    layout = layout_of(x)
    return empty_like(x, layout), empty_record(x, dim, layout)


def _corner_pool_backward_fake(grad: Tensor, record: Tensor, dim: int, reverse: bool) -> Tensor:
    return empty_like(grad, layout_of(grad))


def _setup_context(
    ctx: Any, inputs: tuple[Tensor, int, bool], output: tuple[Tensor, Tensor]
) -> None:
    _, ctx.dim, ctx.reverse = inputs
    ctx.save_for_backward(output[1])
    ctx.set_materialize_grads(False)  # the record has no gradient


def _corner_pool_autograd(
    ctx: Any, grad: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, None, None]:
    if grad is None:
        return None, None, None
    (record,) = ctx.saved_tensors
    result = torch.ops.cpools_ext.corner_pool_backward(grad, record, ctx.dim, ctx.reverse)
    return result, None, None


def double_backward(ctx: Any, *grads: Tensor | None) -> None:
    raise NotImplementedError("corner pooling has no second derivative (double backward)")


def _from_end(x: Tensor, batch_dim: int | None, dim: int) -> int:
    """The dimension counted from the end, which a batch dimension in front does not change."""
    rank = x.dim() - (batch_dim is not None)
    return dim if dim < 0 else dim - rank


def _corner_pool_vmap(
    info: Any, in_dims: tuple[int | None, ...], x: Tensor, dim: int, reverse: bool
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    dim = _from_end(x, in_dims[0], dim)
    x = to_front(x, in_dims[0], info.batch_size)
    return torch.ops.cpools_ext.corner_pool(x, dim, reverse), (0, 0)


def _corner_pool_backward_vmap(
    info: Any,
    in_dims: tuple[int | None, ...],
    grad: Tensor,
    record: Tensor,
    dim: int,
    reverse: bool,
) -> tuple[Tensor, int]:
    dim = _from_end(grad, in_dims[0], dim)
    grad = to_front(grad, in_dims[0], info.batch_size)
    record = to_front(record, in_dims[1], info.batch_size)
    return torch.ops.cpools_ext.corner_pool_backward(grad, record, dim, reverse), 0


library.impl("corner_pool", _corner_pool_fallback, "CompositeExplicitAutograd")
library.impl("corner_pool_backward", backward_fallback, "CompositeExplicitAutograd")
register_fake("cpools_ext::corner_pool", _corner_pool_fake, lib=library)
register_fake("cpools_ext::corner_pool_backward", _corner_pool_backward_fake, lib=library)
register_autograd(
    "cpools_ext::corner_pool", _corner_pool_autograd, setup_context=_setup_context, lib=library
)
register_autograd("cpools_ext::corner_pool_backward", double_backward, lib=library)
register_vmap("cpools_ext::corner_pool", _corner_pool_vmap, lib=library)
register_vmap("cpools_ext::corner_pool_backward", _corner_pool_backward_vmap, lib=library)
native.load()
