"""The operators in standard PyTorch: the fallback without a binary, and the tests' oracle."""

import torch
from torch import Tensor

RECORD_BITS = 8  # positions of the scan in one byte of the record


def corner_pool(x: Tensor, dim: int, reverse: bool) -> tuple[Tensor, Tensor]:
    """Running maximum along a dimension, and a record of the positions where maxima start.

    A position starts a new maximum if it is the scan's first, if its value is strictly greater
    than all before it, or if it is NaN. From a NaN on, the maximum is NaN, as in
    :func:`torch.cummax`.

    Args:
        x: floating tensor of any shape.
        dim: dimension of the scan.
        reverse: scan from the last position to the first.

    Returns:
        The maxima, like ``x``; and the record, uint8, of the shape of ``x`` but for
        ``ceil(L / 8)`` in place of the scan's length L: bit ``i % 8`` of byte ``i // 8`` is set
        where position ``i`` starts a new maximum.
    """
    scanned = x.flip(dim) if reverse else x
    if x.numel() == 0:
        maxima, starts = scanned.clone(), torch.zeros_like(scanned, dtype=torch.bool)
    else:
        maxima = scanned.cummax(dim).values
        later, before = (
            scanned.narrow(dim, 1, x.size(dim) - 1),
            maxima.narrow(dim, 0, x.size(dim) - 1),
        )
        starts = torch.ones_like(scanned, dtype=torch.bool)
        starts.narrow(dim, 1, x.size(dim) - 1).copy_((later > before) | later.isnan())
    if reverse:
        maxima, starts = maxima.flip(dim), starts.flip(dim)
    return maxima, pack_bits(starts, dim)


def corner_pool_backward(grad: Tensor, record: Tensor, dim: int, reverse: bool) -> Tensor:
    """Gradient of :func:`corner_pool`: each maximum's goes to the position where it started.

    Args:
        grad: gradient with respect to the maxima.
        record: record of the forward pass.
        dim, reverse: dimension and direction of the scan in the forward pass.

    Returns:
        The gradient with respect to the input, like ``grad``. A maximum's gradients are added from
        the scan's end to its start, those of half types in float32. On a GPU their order may differ
        from call to call, unless :func:`torch.use_deterministic_algorithms` is on; the native
        operator's order is always the same.
    """
    if grad.numel() == 0:
        return grad.clone()
    starts = unpack_bits(record, dim, grad.size(dim))
    if reverse:
        starts = starts.flip(dim)
    shape = [1] * grad.dim()
    shape[dim] = -1
    positions = torch.arange(grad.size(dim), device=grad.device).view(shape)
    start = torch.where(starts, positions, 0).cummax(dim).values
    wide = grad if grad.dtype == torch.float64 else grad.float()
    against = wide if reverse else wide.flip(dim)
    result = torch.zeros_like(wide).scatter_add_(dim, start.flip(dim), against).to(grad.dtype)
    return result.flip(dim) if reverse else result


def pack_bits(bits: Tensor, dim: int) -> Tensor:
    """Packs eight booleans along ``dim`` into a byte, the first into its lowest bit."""
    last = bits.to(torch.uint8).movedim(dim, -1)
    packed = last[..., ::RECORD_BITS].clone()
    for bit in range(1, RECORD_BITS):
        shifted = last[..., bit::RECORD_BITS] << bit
        packed[..., : shifted.size(-1)] |= shifted
    return packed.movedim(-1, dim)


def unpack_bits(record: Tensor, dim: int, length: int) -> Tensor:
    """Unpacks the first ``length`` booleans along ``dim`` that :func:`pack_bits` packed."""
    shifts = torch.arange(RECORD_BITS, dtype=torch.uint8, device=record.device)
    bits = (record.movedim(dim, -1).unsqueeze(-1) >> shifts) & 1
    return bits.flatten(-2).narrow(-1, 0, length).movedim(-1, dim).bool()
