"""Batch norm with what follows it: where there is a kernel for it, in one pass over the values."""

import math
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpools_ext.batch_norm import batch_norm, is_native


def norm(
    layer: nn.Module, x: Tensor, added: Tensor | None = None, ceiling: float | None = None
) -> Tensor:
    """Normalises a map, adds another to it, and takes the ReLU.

    Training on a GPU, a plain batch norm of maps in channels_last is computed by kernels that round
    once (:func:`cpools_ext.batch_norm.batch_norm`); all else layer by layer.

    Args:
        layer: batch norm, of any kind.
        x: [B, C, H, W], which may be overwritten.
        added: a map of the same shape; None: nothing is added.
        ceiling: highest value of the ReLU, infinity for the usual one; None: no ReLU.

    Returns:
        [B, C, H, W].
    """
    if _is_plain(layer) and is_native(x, added):
        running = (layer.running_mean, layer.running_var, layer.num_batches_tracked)
        if not layer.track_running_stats:
            running = (None, None, None)
        assert layer.momentum is not None
        parameters = (layer.weight, layer.bias)
        return batch_norm(x, parameters, running, layer.momentum, layer.eps, added, ceiling)
    y: Tensor = layer(x)
    if added is not None:
        y = y + added
    if ceiling is None:
        return y
    return F.relu_(y) if ceiling == math.inf else F.hardtanh_(y, 0, ceiling)


def _is_plain(layer: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """True for batch norms of PyTorch in training; those of several processes are others."""
    return (
        type(layer) is nn.BatchNorm2d
        and layer.training
        and layer.affine
        and layer.momentum is not None
        and layer.weight.dtype == torch.float32
    )


class Layers(nn.Sequential):
    """Layers one after another, of which a batch norm and the ReLU after it are computed together.

    Keys are those of :class:`torch.nn.Sequential`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Computes all layers."""
        layers, computed = list(self), None
        for layer, after in zip(layers, [*layers[1:], None], strict=True):
            if layer is computed:
                computed = None
            elif isinstance(layer, nn.BatchNorm2d):
                ceiling = ceiling_of(after)
                x = norm(layer, x, ceiling=ceiling)
                computed = None if ceiling is None else after
            else:
                x = layer(x)
        return x


def ceiling_of(layer: nn.Module | None) -> float | None:
    """Highest value of a ReLU; None: the layer is none."""
    if isinstance(layer, nn.ReLU6):
        return 6.0
    return math.inf if isinstance(layer, nn.ReLU) else None
