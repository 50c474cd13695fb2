"""Times of calls on a device, and the yardstick of networks: the product of two matrices."""

import gc
import statistics
import time
from collections.abc import Callable

import torch


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Measures the wall time of a call, with the device's work."""
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def mean_seconds(function: Callable[[], object], device: torch.device, calls: int) -> float:
    """Measures calls in a row, and returns the mean; on a GPU by the device's own clock.

    A call may begin before the one before it has ended on the GPU.
    """
    if device.type != "cuda":
        return seconds(lambda: [function() for _ in range(calls)], device) / calls
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(calls):
        function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000 / calls


def median_seconds(
    function: Callable[[], object], device: torch.device, calls: int, rounds: int
) -> float:
    """Measures the median of some rounds of :func:`mean_seconds`, after one to warm up."""
    function()
    return statistics.median(mean_seconds(function, device, calls) for _ in range(rounds))


def product_side(device: torch.device) -> int:
    """Side of the yardstick's matrices: a GPU is not busy with small ones."""
    return 8192 if device.type == "cuda" else 2048


def make_product(
    device: torch.device, dtype: torch.dtype, side: int | None = None
) -> tuple[Callable[[], object], int]:
    """Makes the yardstick.

    Args:
        device: where the matrices are.
        dtype: of the matrices.
        side: of the matrices; :func:`product_side` by default.

    Returns:
        A function that multiplies the matrices, and its floating-point operations: a multiplication
        and an addition are two.
    """
    side = product_side(device) if side is None else side
    a, b = torch.rand(2, side, side, device=device, dtype=dtype).unbind()
    return lambda: torch.mm(a, b), 2 * side**3


def product_rate(device: torch.device, dtype: torch.dtype, side: int | None = None) -> float:
    """Measures floating-point operations a second of the yardstick."""
    product, work = make_product(device, dtype, side)
    return work / median_seconds(product, device, calls=5, rounds=5)


def release(device: torch.device) -> None:
    """Frees the memory of what went before, and forgets its peak."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
