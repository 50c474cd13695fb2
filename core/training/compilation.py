"""Compiled training, block by block, which continues uncompiled if the compiler fails.

A network repeats its blocks. They are compiled one by one, and blocks of one kind, with inputs and
weights of the same shapes, use the same code: so the time to compile depends on the number of
different blocks and not on the depth of the network.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from ..layers.backbones import InvertedResidual
from ..layers.blocks import ConvBnRelu, Residual
from ..layers.corner_pooling import CornerPooling
from ..layers.fire import Fire
from ..layers.heads import Head
from ..losses.focal import FocalLoss, focal_loss, fusible_focal_loss
from ..models.detector import Detector
from ..torch_compat import (
    allow_many_compilations,
    compile_backward_ahead,
    is_compile_error,
    keep_masks,
)

logger = logging.getLogger(__name__)

Backend = str | Callable[..., Any]

_BLOCKS = (
    *(Residual, Fire, ConvBnRelu, CornerPooling, Head),
    *(BasicBlock, Bottleneck, InvertedResidual),
)
_CONTAINERS = (nn.ModuleList, nn.ModuleDict)  # they compute nothing


class Compiler:
    """A compiler of functions, which runs them uncompiled after it has failed.

    Compilation begins with the first call, and again for inputs of other shapes. Where it fails,
    one warning says so, and from then on nothing more is compiled.

    Args:
        backend: compiler, as :func:`torch.compile` takes it.
        channels_last: True if convolutions have their weights in channels_last.
        warn: True: log a warning if compilation fails; of several ranks, one does.
    """

    def __init__(
        self, backend: Backend = "inductor", channels_last: bool = False, warn: bool = True
    ) -> None:
        self._options: dict[str, Any] = {"backend": backend, "dynamic": False, "fullgraph": True}
        if backend == "inductor":  # otherwise it takes channels_last on CPUs where that is slow
            self._options["options"] = {"layout_optimization": channels_last}
        self._level = logging.WARNING if warn else logging.DEBUG
        self._failed = False
        # Otherwise the backward pass would be compiled, and fail, after the forward pass has run.
        compile_backward_ahead()
        allow_many_compilations()

    def compiled(
        self, function: Callable[..., Any], plain: Callable[..., Any] | None = None
    ) -> Callable[..., Any]:
        """Makes a function that computes by compiled code.

        Args:
            function: what to compile, without graph breaks; its arguments are positional.
            plain: computes the same where that is not compiled; None: ``function`` itself.
        """
        try:
            return partial(self._call, torch.compile(function, **self._options), function, plain)
        except RuntimeError as error:  # there is no compiler for this system or this Python
            self._fail(error)
            return plain or function

    def _call(
        self,
        compiled: Callable[..., Any],
        function: Callable[..., Any],
        plain: Callable[..., Any] | None,
        *inputs: Any,
    ) -> Any:
        if not self._failed:
            try:
                return compiled(*inputs)
            except Exception as error:
                if not is_compile_error(error):
                    raise
                self._fail(error)
        elif plain is None:  # what was compiled stays so: it may be computed for the second time
            with torch.compiler.set_stance("eager_on_recompile"):
                return compiled(*inputs)
        return (plain or function)(*inputs)

    def _fail(self, error: Exception) -> None:
        if not self._failed:
            reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
            message = "system.compile: training goes on without it, as compiling failed: %s"
            logger.log(self._level, message, reason)
        self._failed = True


def compile_(network: nn.Module, backend: Backend = "inductor", warn: bool = True) -> Compiler:
    """Makes a network compute its blocks by compiled code in training mode, in place.

    The network, its state-dict keys and the memory layout of its weights do not change. Evaluation
    mode, with its images of many sizes, is not compiled. Parts that compute their activations
    twice are made after this, by :func:`.recomputation.recompute_`.

    Args:
        network: network whose blocks are compiled.
        backend, warn: as for :class:`Compiler`.

    Returns:
        The compiler, for what else is to be compiled.
    """
    keep_masks(any(not weight.is_cpu for weight in network.parameters()))
    compiler = Compiler(backend, _in_channels_last(network), warn)
    forward = compiler.compiled(_forward)
    for block in blocks_of(network):
        assert "forward" not in vars(block), "what is recomputed is compiled before"
        block.forward = partial(_compute, network, forward, block)
    return compiler


def compile_detector_(
    detector: Detector, backend: Backend = "inductor", warn: bool = True
) -> Detector:
    """Compiles a detector's training: the blocks of its network, in place, and its focal loss.

    Args:
        detector: the detector; its network is changed as by :func:`compile_`.
        backend, warn: as for :class:`Compiler`.

    Returns:
        The detector with losses that are compiled where they read heatmaps.
    """
    compiler = compile_(detector.compilable or detector.network, backend, warn)
    focal = partial(_focal_loss, compiler.compiled(fusible_focal_loss, focal_loss))
    return replace(detector, losses=partial(detector.losses, focal=focal))


def blocks_of(network: nn.Module) -> Iterator[nn.Module]:
    """Lists the parts of a network that are compiled, each by itself.

    These are the outermost blocks. A part that has layers but no block, such as the first layers of
    a backbone, is compiled as a whole; single layers between blocks are not compiled. Of these, a
    compiled upsampling to the nearest cell would add up its gradient in any order, and slowly.
    """
    if _is_block(network):
        yield network
    elif isinstance(network, _CONTAINERS) or any(_is_block(part) for part in network.modules()):
        for part in network.children():
            yield from blocks_of(part)
    elif next(network.children(), None) is not None:
        yield network


def _is_block(module: nn.Module) -> bool:
    return isinstance(module, _BLOCKS)


def _compute(
    network: nn.Module, compiled: Callable[..., Any], block: nn.Module, *inputs: Any
) -> Any:
    """Computes a block. At cells, whose number changes from step to step, nothing is compiled."""
    at_cells = any(isinstance(each, Tensor) and not each.is_floating_point() for each in inputs)
    return (compiled if network.training and not at_cells else _forward)(block, *inputs)


def _focal_loss(compiled: FocalLoss, *inputs: Any) -> Tensor:
    return (compiled if torch.is_grad_enabled() else focal_loss)(*inputs)


def _forward(block: nn.Module, *inputs: Any) -> Any:
    """Computes a block; up to 2.13, PyTorch compiles an nn.Sequential's own within others only."""
    return type(block).forward(block, *inputs)


def _in_channels_last(network: nn.Module) -> bool:
    return any(weight.dim() == 4 and not weight.is_contiguous() for weight in network.parameters())
