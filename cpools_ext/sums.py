"""The two corner poolings of a corner and their sum, in one operator."""

from typing import Any

import torch
from torch import Tensor
from torch.library import register_autograd, register_fake, register_vmap

from cpools_ext import native, portable, reference
from cpools_ext.ops import (
    backward_fallback,
    check_map,
    double_backward,
    empty_like,
    empty_record,
    layout_of,
    library,
    to_front,
)

# True: both scans run from the last position to the first.
CORNERS: dict[str, bool] = {"top_left": True, "bottom_right": False}

library.define(
    "corner_pool_sum(Tensor vertical, Tensor horizontal, bool reverse) -> (Tensor, Tensor, Tensor)"
)
library.define(
    "corner_pool_sum_backward(Tensor grad, Tensor vertical_record, Tensor horizontal_record, "
    "bool reverse) -> (Tensor, Tensor)"
)


def corner_pool_sum(vertical: Tensor, horizontal: Tensor, corner: str) -> Tensor:
    """Pools one map along its columns and one along its rows, and adds them (section 3.2, fig. 6).

    The same as ``corner_pool(vertical, "top") + corner_pool(horizontal, "left")`` for the
    top-left corner, or ``"bottom"`` and ``"right"``, without the two maps in between.

    Args:
        vertical: Tensor[..., H, W], float32, float64, bfloat16 or float16, pooled along H.
        horizontal: tensor of the same shape, dtype and device, pooled along W.
        corner: ``"top_left"`` or ``"bottom_right"``.

    Returns:
        Tensor[..., H, W], the sum of the two poolings.

    Raises:
        ValueError: unknown corner, maps that disagree, another dtype, fewer than two dimensions.
        NotImplementedError: a derivative in forward mode or by ``torch.func`` is requested.
    """
    if corner not in CORNERS:
        raise ValueError(f"corner {corner!r} must be one of {', '.join(CORNERS)}")
    check_map(vertical)
    check_map(horizontal)
    if (vertical.shape, vertical.dtype) != (horizontal.shape, horizontal.dtype) or (
        vertical.device != horizontal.device
    ):
        raise ValueError(
            f"the two maps of a corner must agree, not {_describe(vertical)} "
            f"and {_describe(horizontal)}"
        )
    reverse = CORNERS[corner]
    if torch.compiler.is_exporting():
        down = portable.corner_pool(vertical, -2, reverse)
        return down + portable.corner_pool(horizontal, -1, reverse)
    return torch.ops.cpools_ext.corner_pool_sum(vertical, horizontal, reverse)[0]


def _describe(x: Tensor) -> str:
    return f"{x.dtype} {tuple(x.shape)} on {x.device}"


def _fallback(vertical: Tensor, horizontal: Tensor, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    native.announce_fallback()
    layout = layout_of(vertical)
    down, down_record = reference.corner_pool(vertical, -2, reverse)
    along, along_record = reference.corner_pool(horizontal, -1, reverse)
    results = (down + along, down_record, along_record)
    return tuple(result.contiguous(memory_format=layout) for result in results)  # type: ignore[return-value]


def _backward_fallback(
    grad: Tensor, vertical_record: Tensor, horizontal_record: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    down = backward_fallback(grad, vertical_record, -2, reverse)
    return down, backward_fallback(grad, horizontal_record, -1, reverse)


def _fake(vertical: Tensor, horizontal: Tensor, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    layout = layout_of(vertical)
    down_record = empty_record(vertical, -2, layout)
    return empty_like(vertical, layout), down_record, empty_record(vertical, -1, layout)


def _backward_fake(
    grad: Tensor, vertical_record: Tensor, horizontal_record: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    layout = layout_of(grad)
    return empty_like(grad, layout), empty_like(grad, layout)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.reverse = inputs[2]
    ctx.save_for_backward(*output[1:])
    ctx.set_materialize_grads(False)  # the records have no gradient


def _autograd(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, Tensor | None, None]:
    if grad is None:
        return None, None, None
    records = ctx.saved_tensors
    return *torch.ops.cpools_ext.corner_pool_sum_backward(grad, *records, ctx.reverse), None


def _vmap(
    info: Any,
    in_dims: tuple[int | None, ...],
    vertical: Tensor,
    horizontal: Tensor,
    reverse: bool,
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[int, int, int]]:
    vertical = to_front(vertical, in_dims[0], info.batch_size)
    horizontal = to_front(horizontal, in_dims[1], info.batch_size)
    return torch.ops.cpools_ext.corner_pool_sum(vertical, horizontal, reverse), (0, 0, 0)


def _backward_vmap(
    info: Any,
    in_dims: tuple[int | None, ...],
    grad: Tensor,
    vertical_record: Tensor,
    horizontal_record: Tensor,
    reverse: bool,
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    tensors = (grad, vertical_record, horizontal_record)
    grad, down, along = (
        to_front(each, dim, info.batch_size) for each, dim in zip(tensors, in_dims[:3], strict=True)
    )
    return torch.ops.cpools_ext.corner_pool_sum_backward(grad, down, along, reverse), (0, 0)


library.impl("corner_pool_sum", _fallback, "CompositeExplicitAutograd")
library.impl("corner_pool_sum_backward", _backward_fallback, "CompositeExplicitAutograd")
register_fake("cpools_ext::corner_pool_sum", _fake, lib=library)
register_fake("cpools_ext::corner_pool_sum_backward", _backward_fake, lib=library)
register_autograd(
    "cpools_ext::corner_pool_sum", _autograd, setup_context=_setup_context, lib=library
)
register_autograd("cpools_ext::corner_pool_sum_backward", double_backward, lib=library)
register_vmap("cpools_ext::corner_pool_sum", _vmap, lib=library)
register_vmap("cpools_ext::corner_pool_sum_backward", _backward_vmap, lib=library)
