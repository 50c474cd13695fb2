"""Finds and loads the binary of the native operators. Nothing here raises."""

import functools
import importlib.util
import logging
import re
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

BINARY = "_cpools_ext"  # a top-level name: found although a checkout hides the installed package


@functools.cache
def load() -> str | None:
    """Loads the binary once; its kernels register themselves.

    Returns:
        Why there are no native operators, or None where they were loaded.
    """
    path = binary()
    if path is None:
        return "they were not built"
    running = ".".join(torch.__version__.split(".")[:2])
    try:
        if built_for(path) != running:  # it might crash, or worse
            reason = f"{path} was built for torch {built_for(path)}, and this is {running}"
            logger.warning(
                "native operators are left out: %s; "
                "`pip install --no-build-isolation .` builds them again",
                reason,
            )
            return reason
        torch.ops.load_library(path)
    except (OSError, RuntimeError) as error:
        return f"{path} does not load: {str(error).splitlines()[0]}"
    return None


def built_for(path: str) -> str:
    """The release of torch, as "2.14", whose headers a binary was compiled with."""
    words = re.search(rb"cpools_ext for torch (\d+\.\d+)", Path(path).read_bytes())
    return words[1].decode() if words else "of an unknown release"


def binary() -> str | None:
    """The file of the native operators, None where there is none."""
    try:
        spec = importlib.util.find_spec(BINARY)
    except (ImportError, ValueError):
        return None
    return None if spec is None else spec.origin


@functools.cache
def announce_fallback() -> None:
    """Says once that operators run without native kernels, and why."""
    logger.info(
        "corner pooling runs in standard PyTorch, slower than native operators would: %s; "
        "`pip install -v --no-build-isolation .` builds them, or says why it cannot",
        load() or "the binary has none for this device",
    )


def has_kernel(device: str) -> bool:
    """Whether the operators run natively on ``"cpu"`` or ``"cuda"`` tensors."""
    load()
    return torch._C._dispatch_has_kernel_for_dispatch_key("cpools_ext::corner_pool", device.upper())


def describe_build() -> str:
    """How the binary was built: compiler, instruction sets, CUDA and its architectures."""
    return "none" if load() is not None else torch.ops.cpools_ext.describe_build()
