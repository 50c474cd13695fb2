"""Compiled training, which continues uncompiled if the compiler fails."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..torch_compat import (
    compile_backward_ahead,
    is_compile_error,
    mark_dynamic,
    set_compiled_call,
    uncompiled_call,
)

logger = logging.getLogger(__name__)


def compile_(
    network: nn.Module, backend: str | Callable[..., Any] = "inductor", warn: bool = True
) -> None:
    """Makes a network run compiled in training mode, in place.

    The network, its state-dict keys and the memory layout of its weights do not change. Compilation
    begins with the first call. If it fails, then or for later inputs, one warning says so, and the
    network runs uncompiled from then on. Evaluation mode, with its images of many sizes, is not
    compiled.

    Args:
        network: network without graph breaks. It takes images, and cells int64 [B, M] to read from
            its maps; M, above 1, may differ from call to call.
        backend: compiler, as :func:`torch.compile` takes it.
        warn: True: log a warning if compilation fails; of several ranks, one does.
    """
    level = logging.WARNING if warn else logging.DEBUG
    # Otherwise the backward pass would be compiled, and fail, after the forward pass has run.
    compile_backward_ahead()
    plain = uncompiled_call(network)

    # Up to 2.13, PyTorch compiles its own functions, as an nn.Sequential's, within others only.
    def run(images: Any, *cells: Any, **options: Any) -> Any:
        return plain(images, *cells, **options)

    settings: Any = None
    if backend == "inductor":  # otherwise it takes channels_last on CPUs where that is slow
        settings = {"layout_optimization": _in_channels_last(network)}
    try:
        compiled = torch.compile(run, backend=backend, options=settings)
    except RuntimeError as error:  # there is no compiler for this system or this Python
        _warn(error, level)
        return

    def call(images: Any, *cells: Any, **options: Any) -> Any:
        if network.training:
            for index in cells:
                mark_dynamic(index, 1)  # otherwise every M would be compiled
            try:
                return compiled(images, *cells, **options)
            except RuntimeError as error:
                if not is_compile_error(error):
                    raise
                _warn(error, level)
                set_compiled_call(network, None)
        return plain(images, *cells, **options)

    set_compiled_call(network, call)


def _in_channels_last(network: nn.Module) -> bool:
    return any(weight.dim() == 4 and not weight.is_contiguous() for weight in network.parameters())


def _warn(error: Exception, level: int) -> None:
    reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
    logger.log(
        level, "system.compile: training goes on without it, as compiling failed: %s", reason
    )
