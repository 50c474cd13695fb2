"""Finds and loads the binary of the native operators. Nothing here raises."""

import functools
import importlib.util
import logging

import torch

logger = logging.getLogger(__name__)

BINARY = "_cpools_ext"  # a top-level name: found although a checkout hides the installed package


@functools.cache
def load() -> str | None:
    """Loads the binary once; its kernels register themselves.

    Returns:
        Why there are no native operators, or None where they were loaded.
    """
    try:
        spec = importlib.util.find_spec(BINARY)
    except (ImportError, ValueError) as error:
        return str(error)
    if spec is None or spec.origin is None:
        return "they were not built"
    try:
        torch.ops.load_library(spec.origin)
    except (OSError, RuntimeError) as error:
        return f"{spec.origin} does not load: {str(error).splitlines()[0]}"
    return None


@functools.cache
def announce_fallback(device: str) -> None:
    """Says once that the operators run without their native kernels."""
    logger.info(
        "corner pooling on %s runs in standard PyTorch, slower than native: %s; "
        "`pip install --no-build-isolation .` builds the native operators",
        device,
        load() or f"the binary was built without {device}",
    )


def has_kernel(device: str) -> bool:
    """Whether the operators run natively on ``"cpu"`` or ``"cuda"`` tensors."""
    load()
    return torch._C._dispatch_has_kernel_for_dispatch_key("cpools_ext::corner_pool", device.upper())
