"""The blocks that hourglass networks are made of.

Attribute names are frozen: weights of the reference depend on them.
"""

import math
from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from .norm import Layers, norm
from .subsample import every_cell


class Block(Protocol):
    """Builder of one block of a network: :class:`Residual` or :class:`core.layers.fire.Fire`."""

    def __call__(self, in_channels: int, out_channels: int, stride: int = 1) -> nn.Module:
        """Makes a module from [B, in_channels, H, W] to [B, out_channels, H/stride, W/stride]."""
        ...


class ConvBnRelu(nn.Module):
    """Convolution, batch normalisation, ReLU; keeps the size, or divides it by the stride.

    Args:
        in_channels, out_channels: number of channels.
        kernel: side of the kernel, odd.
        stride: 1, or 2 to halve the size, rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False
        )
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, out_channels, H/stride, W/stride]."""
        return norm(self.bn, self.conv(x), ceiling=math.inf)


class ConvRelu(nn.Module):
    """Convolution with a bias, ReLU; keeps the size.

    Args:
        in_channels, out_channels: number of channels.
        kernel: side of the kernel, odd.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, out_channels, H, W]."""
        return F.relu_(self.conv(x))


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016, arXiv:1512.03385, figure 2).

    The shortcut is a 1x1 convolution where the number of channels or the size changes.

    Args:
        in_channels, out_channels: number of channels.
        stride: 1, or 2 to halve the size, rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.skip = conv_bn(in_channels, out_channels)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, out_channels, H/stride, W/stride]."""
        y = self.conv2(norm(self.bn1, self.conv1(x), ceiling=math.inf))
        if self.stride > 1:
            x = every_cell(x, self.stride)
        return norm(self.bn2, y, self.skip(x), math.inf)


def conv_bn(in_channels: int, out_channels: int) -> Layers:
    """Makes a 1x1 convolution and a batch normalisation, with keys ``0`` and ``1``."""
    return Layers(
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
    )
