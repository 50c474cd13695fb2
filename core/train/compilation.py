"""A network whose training runs compiled, or as it is where the compiler fails."""

import logging
from collections.abc import Callable
from typing import Any

import torch
import torch._functorch.config
from torch import nn
from torch._dynamo.exc import TorchDynamoException

logger = logging.getLogger(__name__)

# Whether this PyTorch can be made to compile a backward pass ahead of its forward pass.
AHEAD = hasattr(torch._functorch.config, "force_non_lazy_backward_lowering")
# Whether what it compiles leaves running statistics alone where it computes activations again.
RECOMPUTES = torch.__version__ >= "2.9"


def compile_(
    network: nn.Module, backend: str | Callable[..., Any] = "inductor", warn: bool = True
) -> None:
    """Makes a network run compiled in training mode, in place.

    The network and its state-dict keys stay what they are, and so does the memory layout that its
    weights have. Compilation begins with the first call. If it fails, then or for inputs that come
    later, one warning says so and the network runs from there on as if it had not been asked for.
    Evaluation mode, with its pictures of many sizes, is not compiled.

    Args:
        network: should have no graph breaks. It takes images, and cells int64 [B, M] to read of its
            maps; M, above 1, may be another every time.
        backend: see :func:`torch.compile`.
        warn: whether this process warns if it fails; of several ranks, one does.
    """
    level = logging.WARNING if warn else logging.DEBUG
    # Else the backward pass would be compiled, and fail, after the forward pass has run, as it does
    # with PyTorch 2.8 and 2.9.
    if AHEAD:
        torch._functorch.config.force_non_lazy_backward_lowering = True
    plain = network._call_impl

    # Up to 2.13, PyTorch compiles its own functions, as an nn.Sequential's, within others only.
    def run(images: Any, *cells: Any, **options: Any) -> Any:
        return plain(images, *cells, **options)

    settings: Any = None
    if backend == "inductor":  # else channels_last on every CPU, which move_to_device_ avoids
        settings = {"layout_optimization": _in_channels_last(network)}
    try:
        compiled = torch.compile(run, backend=backend, options=settings)
    except RuntimeError as error:  # there is no compiler for this system or this Python
        _warn(error, level)
        return

    def call(images: Any, *cells: Any, **options: Any) -> Any:
        if network.training:
            for index in cells:
                torch._dynamo.maybe_mark_dynamic(index, 1)  # or each number would be compiled
            try:
                return compiled(images, *cells, **options)
            except TorchDynamoException as error:
                _warn(error, level)
                network._compiled_call_impl = None
        return plain(images, *cells, **options)

    network._compiled_call_impl = call


def _in_channels_last(network: nn.Module) -> bool:
    return any(weight.dim() == 4 and not weight.is_contiguous() for weight in network.parameters())


def _warn(error: Exception, level: int) -> None:
    reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
    logger.log(level, "system.compile: training goes on without, as compiling failed: %s", reason)
