"""Activation checkpointing: activations are computed twice instead of kept.

Chen et al. 2016, arXiv:1604.06174. Most of a step's memory are activations that the backward pass
reads. A part of the network that is recomputed keeps its inputs only; the rest is computed again
when the backward pass reaches it. Losses, gradients and running statistics stay the same.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, Bottleneck

from ..config.errors import UserError
from ..layers.backbones import InvertedResidual
from ..layers.blocks import Residual
from ..layers.corner_pooling import CornerPooling
from ..layers.fire import Fire
from ..layers.heads import Head
from ..layers.hourglass import Hourglass
from ..torch_compat import BatchNorm

Part = Literal["stack", "residual"]

_PARTS: dict[Part, tuple[type[nn.Module], ...]] = {
    "stack": (Hourglass,),
    "residual": (Residual, Fire, BasicBlock, Bottleneck, InvertedResidual),
}
_BEHIND = (CornerPooling, Head)  # they keep as much as the hourglasses, at 128 x 128 cells


def recompute_(network: nn.Module, part: Part) -> None:
    """Makes parts of a network compute their activations again instead of keeping them.

    State-dict keys stay as they are, and what :func:`.compilation.compile_` compiled before this
    stays compiled in both computations. An hourglass is one part with all its levels. Corner
    pooling and heads, between features and maps, are recomputed with either kind.

    Args:
        network: changed in place.
        part: ``stack`` for every hourglass, ``residual`` for every residual block.

    Raises:
        UserError: the network has no such part.
    """
    if not _has(network, part):
        fitting = [repr(other) for other in _PARTS if _has(network, other)]
        raise UserError(
            f"system.checkpointing: this network has no part of the kind {part!r}; set it to "
            f"{' or '.join([*fitting, repr('none')])}"
        )
    _recompute_outermost_(network, (*_PARTS[part], *_BEHIND))


def _has(network: nn.Module, part: Part) -> bool:
    return any(isinstance(module, _PARTS[part]) for module in network.modules())


def _recompute_outermost_(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> None:
    for module in network.children():
        if isinstance(module, kinds):
            module.forward = partial(_recomputed, module, module.forward)
        else:
            _recompute_outermost_(module, kinds)


def _recomputed(module: nn.Module, forward: Callable[..., Any], *inputs: Any) -> Any:
    """Computes a module's output by ``forward`` so that the backward pass computes it again.

    None of the parts draws random numbers.
    """
    return checkpoint(
        forward,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=partial(_contexts, module),
    )


def _contexts(
    module: nn.Module,
) -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
    """Makes the contexts of the first computation and of the second."""
    norms = {
        norm: norm.track_running_stats for norm in module.modules() if isinstance(norm, BatchNorm)
    }
    return contextlib.nullcontext(), _as_before(norms)


@contextlib.contextmanager
def _as_before(norms: dict[BatchNorm, bool]) -> Iterator[None]:
    """Context in which batch norms compute as before, and update copies of their statistics.

    Args:
        norms: batch norms, each with True if it kept running statistics at the first computation.
    """
    kept = [(norm, norm.track_running_stats, dict(norm.named_buffers())) for norm in norms]
    for norm, _, buffers in kept:
        norm.track_running_stats = norms[norm]
        for name, buffer in buffers.items():
            setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, tracked, buffers in kept:
            norm.track_running_stats = tracked
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)
