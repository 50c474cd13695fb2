"""``python -m cpools_ext``: describes the build, and compares native operators with their twins.

The exit code is 0 if all results agree, and 1 if any differs.
"""

import logging
import platform
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from cpools_ext import CORNERS, DIRECTIONS, batch_norm, native, reference, soft_nms_reference
from cpools_ext.corners import best_pairs, read_corners, score_pairs
from cpools_ext.focal import focal_loss
from cpools_ext.peaks import peaks
from cpools_ext.soft_nms import METHODS
from cpools_ext.windows import DTYPES as WINDOW_DTYPES
from cpools_ext.windows import gather_windows

logger = logging.getLogger("cpools_ext")

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": Tensor.contiguous,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "columns first": lambda x: x.mT.contiguous().mT,
}
SHAPES = ((2, 3, 7, 9), (1, 4, 64, 64), (1, 2, 33, 70), (3, 1, 1, 5), (2, 2, 130, 1))


def main() -> int:
    """Describes the operators, compares them with their twins, and returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    describe()
    differences = checks = 0
    for device in active_devices():
        for name, same in compare(device):
            checks += 1
            if not same:
                differences += 1
                logger.error("differs from standard PyTorch on %s: %s", device, name)
    if checks == 0:
        logger.info("self-check: nothing native to compare")
    else:
        logger.info("self-check: %d comparisons, %d differences", checks, differences)
    return 1 if differences else 0


def describe() -> None:
    """Logs the versions, the build, and the kernels that each device uses."""
    logger.info("python %s, torch %s", platform.python_version(), torch.__version__)
    reason = native.load()
    logger.info("native operators: %s", native.binary() if reason is None else f"none; {reason}")
    logger.info("built with: %s", native.describe_build())
    kernels = "standard PyTorch"
    if native.has_kernel("cpu"):
        kernels = f"native; {torch.ops.cpools_ext.cpu_kernels()} kernels"
    logger.info("CPU: %s, %d threads", kernels, torch.get_num_threads())
    kernels = "native" if native.has_kernel("cuda") else "standard PyTorch"
    logger.info("CUDA: %s; %s", kernels, _describe_gpus())


def _describe_gpus() -> str:
    names = []
    for i in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(i)
        names.append(f"{torch.cuda.get_device_name(i)} (sm_{major}{minor})")
    return ", ".join(names) or "no device"


def active_devices() -> list[str]:
    """The devices of this machine on which the operators run natively."""
    devices = ["cpu"] if native.has_kernel("cpu") else []
    if native.has_kernel("cuda") and torch.cuda.is_available():
        devices.append("cuda")
    return devices


def compare(device: str) -> Iterator[tuple[str, bool]]:
    """Compares the operators with their twins.

    Args:
        device: ``"cpu"`` or ``"cuda"``, on which the native operators run.

    Yields:
        The name of a comparison, and True if the results agree: poolings, peaks and windows bit
        for bit, focal losses to rounding, soft-NMS in the rows that it keeps and to 1e-4.
    """
    generator = torch.Generator().manual_seed(0)
    for dtype in DTYPES:
        for shape in SHAPES:
            for layout, arranged in LAYOUTS.items():
                x, y, grad = (
                    torch.randint(-8, 9, shape, generator=generator) / 4 for _ in range(3)
                )
                for each in (x, y):
                    each[torch.rand(shape, generator=generator) < 0.01] = float("nan")
                x, y, grad = (arranged(each.to(dtype)) for each in (x, y, grad))
                name = f"{dtype} {shape} {layout}".removeprefix("torch.")
                yield from _compare_pooling(name, x, grad, device)
                yield from _compare_sum(name, x, y, grad, device)
                if device == "cuda":  # on the CPU these are standard PyTorch
                    yield from _compare_peaks(name, x, y, device)
                    yield from _compare_focal_loss(name, x.nan_to_num(-3), y, device)
    if device == "cpu":
        yield from _compare_soft_nms(generator)
    else:
        yield from _compare_corners(device)
        yield from _compare_windows(device)
        yield from _compare_batch_norm(device)


def _compare_pooling(name: str, x: Tensor, grad: Tensor, device: str) -> Iterator[tuple[str, bool]]:
    ops = torch.ops.cpools_ext
    for direction, (dim, reverse) in DIRECTIONS.items():
        maxima, record = reference.corner_pool(x, dim, reverse)
        expected = reference.corner_pool_backward(grad, record, dim, reverse)
        result, bits = ops.corner_pool(x.to(device), dim, reverse)
        grad_input = ops.corner_pool_backward(grad.to(device), bits, dim, reverse)
        yield f"{direction}, {name}", _equal((result, bits), (maxima, record))
        yield f"gradient of {direction}, {name}", _equal((grad_input,), (expected,))


def _compare_sum(
    name: str, x: Tensor, y: Tensor, grad: Tensor, device: str
) -> Iterator[tuple[str, bool]]:
    for corner, reverse in CORNERS.items():
        down, down_record = reference.corner_pool(x, -2, reverse)
        along, along_record = reference.corner_pool(y, -1, reverse)
        maps = [each.to(device).requires_grad_() for each in (x.detach(), y.detach())]
        results = torch.ops.cpools_ext.corner_pool_sum(*maps, reverse)
        yield f"{corner}, {name}", _equal(results, (down + along, down_record, along_record))
        expected = (
            reference.corner_pool_backward(grad, down_record, -2, reverse),
            reference.corner_pool_backward(grad, along_record, -1, reverse),
        )
        grads = torch.autograd.grad(results[0], maps, grad.to(device))
        yield f"gradients of {corner}, {name}", _equal(grads, expected)


def _compare_peaks(name: str, x: Tensor, y: Tensor, device: str) -> Iterator[tuple[str, bool]]:
    for kernel in (1, 3, 7):
        found = peaks([x.to(device), y.to(device)], kernel)
        yield f"peaks of windows of {kernel}, {name}", _equal((found,), (peaks([x, y], kernel),))


def _compare_focal_loss(name: str, x: Tensor, y: Tensor, device: str) -> Iterator[tuple[str, bool]]:
    target = y.float().nan_to_num(2).div(2).clamp(0, 1)
    results = []
    for place in (device, "cpu"):
        logits = x.detach().to(place, copy=True).requires_grad_()
        loss = focal_loss(logits, target.to(place), y.to(place) != 0)
        loss.backward()
        assert logits.grad is not None
        results.append((loss.item(), logits.grad.cpu().double()))
    (loss_there, found), (loss_here, expected) = results
    yield f"focal loss, {name}", abs(loss_there - loss_here) <= 1e-5 * loss_here
    same = torch.allclose(found, expected, rtol=torch.finfo(x.dtype).eps + 1e-5, atol=1e-6)
    yield f"gradient of focal loss, {name}", same


def _compare_corners(device: str) -> Iterator[tuple[str, bool]]:
    """Compares decoded pairs to 1e-6, as exponentials of devices differ."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 20, generator=generator)
    labels = torch.randint(0, 2, logits.shape, generator=generator)
    cells = torch.randint(0, 64, logits.shape, generator=generator)
    offsets = torch.rand(2, 2, 2, 8, 8, generator=generator)
    embeddings = torch.rand(2, 2, 1, 8, 8, generator=generator)

    def decode(place: str, dtype: torch.dtype) -> Tensor:
        peaks_there = (logits.to(place), labels.to(place), cells.to(place))
        maps = [each.to(place, dtype).unbind() for each in (offsets, embeddings)]
        corners = read_corners(peaks_there, maps[0], (8, 8), no_border=True)
        return best_pairs(corners, score_pairs(corners, maps[1], 0.5), 20).cpu()

    for dtype in DTYPES:
        same = torch.allclose(decode(device, dtype), decode("cpu", dtype), rtol=0, atol=1e-6)
        yield f"pairs of corners, {dtype}".replace("torch.", ""), same


def _compare_windows(device: str) -> Iterator[tuple[str, bool]]:
    """Compares windows of integers, whose sums no type rounds."""
    generator = torch.Generator().manual_seed(0)
    for dtype in WINDOW_DTYPES:
        for channels in (5, 64):
            maps = torch.randint(-2, 3, (2, channels, 13, 11), generator=generator).to(dtype)
            maps = maps.contiguous(memory_format=torch.channels_last)
            index = torch.randint(0, 143, (2, 50), generator=generator)
            index[1, 20:] = 0  # as objects that only pad a batch
            grad = torch.randint(-1, 2, (100, channels, 3, 3), generator=generator).to(dtype)
            results = []
            for place in (device, "cpu"):
                there = maps.to(place, copy=True).requires_grad_()
                windows = gather_windows(there, index.to(place), 3)
                (gradient,) = torch.autograd.grad(windows, there, grad.to(place))
                results.append((windows.detach(), gradient))
            name = f"windows, {channels} channels, {dtype}".replace("torch.", "")
            yield name, _equal(*results)


def _compare_batch_norm(device: str) -> Iterator[tuple[str, bool]]:
    """Compares outputs to the rounding of their type, and statistics to that of float32."""
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(2, 16, 9, 7, generator=generator) for _ in range(2)]
    weight, bias = torch.rand(2, 16, generator=generator)
    for dtype in batch_norm.DTYPES:
        x, added = (each.to(dtype).contiguous(memory_format=torch.channels_last) for each in values)
        found, expected = (
            torch.ops.cpools_ext.batch_norm(
                x.to(place),
                added.to(place),
                weight.to(place),
                bias.to(place),
                *[None] * 3,
                0.1,
                1e-5,
                True,
                torch.inf,
            )
            for place in (device, "cpu")
        )
        rounding = torch.finfo(dtype).eps + 1e-5
        same = all(
            torch.allclose(a.cpu(), b, rtol=rounding, atol=rounding)
            for a, b in zip(found, expected, strict=True)
        )
        yield f"batch norm, {dtype}".replace("torch.", ""), same


def _compare_soft_nms(generator: torch.Generator) -> Iterator[tuple[str, bool]]:
    corners = torch.rand(200, 2, generator=generator) * 100
    sizes = torch.rand(200, 2, generator=generator) * 50
    scores = torch.rand(200, 3, generator=generator)
    boxes = torch.cat([corners, corners + sizes, scores], 1)
    labels = torch.randint(0, 5, (200,), generator=generator)
    for name, method in METHODS.items():
        for weight_exp in (None, 8.0):
            settings = (method, 0.5, 0.5, 0.001, weight_exp, True)
            rows, _, kept = torch.ops.cpools_ext.soft_nms(boxes, labels, *settings)
            expected = soft_nms_reference.soft_nms(boxes.numpy(), labels.numpy(), *settings)
            same = torch.equal(kept, torch.from_numpy(expected[2])) and torch.allclose(
                rows[kept], torch.from_numpy(expected[0])[kept], 1e-4, 1e-4
            )
            yield f"{name}, {'merging' if weight_exp else 'not merging'}", same


def _equal(results: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> bool:
    pairs = zip(results, expected, strict=True)
    return all(torch.allclose(a.cpu(), b, rtol=0, atol=0, equal_nan=True) for a, b in pairs)


if __name__ == "__main__":
    sys.exit(main())
