"""``python -m cpools_ext``: says what is active, and compares native with standard PyTorch.

The exit code is 0 if all agrees, and 1 after a difference.
"""

import logging
import platform
import sys
from collections.abc import Iterator

import torch
from torch import Tensor

from cpools_ext import CORNERS, DIRECTIONS, native, reference, soft_nms_reference
from cpools_ext.soft_nms import METHODS

logger = logging.getLogger("cpools_ext")

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SHAPES = ((2, 3, 7, 9), (1, 4, 64, 64), (1, 2, 33, 70), (3, 1, 1, 5), (2, 2, 130, 1))


def main() -> int:
    """Runs the self-check; see the module."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    describe()
    differences = checks = 0
    for device in active_devices():
        for what, same in compare(device):
            checks += 1
            if not same:
                differences += 1
                logger.error("differs from standard PyTorch on %s: %s", device, what)
    if checks == 0:
        logger.info("self-check: nothing native to compare")
    else:
        logger.info("self-check: %d comparisons, %d differences", checks, differences)
    return 1 if differences else 0


def describe() -> None:
    """Logs the versions, and what runs natively where."""
    logger.info("python %s, torch %s", platform.python_version(), torch.__version__)
    reason = native.load()
    logger.info("native operators: %s", native.binary() if reason is None else f"none; {reason}")
    logger.info("built with: %s", native.describe_build())
    for device in ("cpu", "cuda"):
        kernel = "native" if native.has_kernel(device) else "standard PyTorch"
        logger.info("%s: %s; %s", device.upper(), kernel, _describe_device(device))


def _describe_device(device: str) -> str:
    if device == "cpu":
        threads = torch.get_num_threads()
        return f"{torch.backends.cpu.get_cpu_capability()}, {threads} threads"
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
        device: where they run natively.

    Yields:
        What was compared, and whether it agrees: poolings to the last bit.
    """
    generator = torch.Generator().manual_seed(0)
    for dtype in DTYPES:
        for shape in SHAPES:
            for layout in (torch.contiguous_format, torch.channels_last):
                x, grad = (
                    (torch.randint(-8, 9, shape, generator=generator) / 4)
                    .to(dtype)
                    .contiguous(memory_format=layout)
                    for _ in range(2)
                )
                name = f"{dtype} {shape} {layout}".replace("torch.", "")
                yield from _compare_pooling(name, x, grad, device)
                yield from _compare_sum(name, x, grad, device)
    if device == "cpu":
        yield from _compare_soft_nms(generator)


def _compare_pooling(name: str, x: Tensor, grad: Tensor, device: str) -> Iterator[tuple[str, bool]]:
    ops = torch.ops.cpools_ext
    for direction, (dim, reverse) in DIRECTIONS.items():
        maxima, record = reference.corner_pool(x, dim, reverse)
        expected = reference.corner_pool_backward(grad, record, dim, reverse)
        result, bits = ops.corner_pool(x.to(device), dim, reverse)
        grad_input = ops.corner_pool_backward(grad.to(device), bits, dim, reverse)
        yield f"{direction}, {name}", _equal((result, bits), (maxima, record))
        yield f"gradient of {direction}, {name}", _equal((grad_input,), (expected,))


def _compare_sum(name: str, x: Tensor, y: Tensor, device: str) -> Iterator[tuple[str, bool]]:
    for corner, reverse in CORNERS.items():
        expected = (
            reference.corner_pool(x, -2, reverse)[0] + reference.corner_pool(y, -1, reverse)[0]
        )
        result = torch.ops.cpools_ext.corner_pool_sum(x.to(device), y.to(device), reverse)[0]
        yield f"{corner}, {name}", _equal((result,), (expected,))


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
    return all(torch.equal(a.cpu(), b) for a, b in zip(results, expected, strict=True))


if __name__ == "__main__":
    sys.exit(main())
