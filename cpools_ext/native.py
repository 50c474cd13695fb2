"""Finds and loads the binary of the native operators. No function here raises an error."""

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
        The reason why there are no native operators; None if they are loaded.
    """
    path = binary()
    if path is None:
        return "they were not built"
    running = ".".join(torch.__version__.split(".")[:2])
    try:
        if built_for(path) != running:  # loading it might crash the process
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
    """The release of torch, like "2.14", whose headers a binary was compiled with."""
    found = re.search(rb"cpools_ext for torch (\d+\.\d+)", Path(path).read_bytes())
    return found[1].decode() if found else "of an unknown release"


def binary() -> str | None:
    """The file of the native operators, or None if there is none."""
    try:
        spec = importlib.util.find_spec(BINARY)
    except (ImportError, ValueError):
        return None
    return None if spec is None else spec.origin


@functools.cache
def announce_fallback() -> None:
    """Logs once that operators run without native kernels, and why."""
    logger.info(
        "corner pooling runs in standard PyTorch, slower than native operators would: %s; "
        "`pip install -v --no-build-isolation .` builds them, or says why it cannot",
        load() or "the binary has none for this device",
    )


def has_kernel(device: str) -> bool:
    """True if the operators run natively on the tensors of ``"cpu"`` or ``"cuda"``."""
    load()
    return torch._C._dispatch_has_kernel_for_dispatch_key("cpools_ext::corner_pool", device.upper())


def describe_build() -> str:
    """The build of the binary: torch, compiler, instruction sets, CUDA and its architectures."""
    return "none" if load() is not None else torch.ops.cpools_ext.describe_build()
