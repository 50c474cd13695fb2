"""The fire module of SqueezeNet as CornerNet-Squeeze uses it (CornerNet-Lite, section 4)."""

import math

import torch
from torch import Tensor, nn

from .norm import norm


class Fire(nn.Module):
    """Squeezes the channels by a 1x1 convolution, then expands them by a 1x1 and a 3x3 one.

    The module of SqueezeNet (arXiv:1602.07360, section 3.1), with a depthwise 3x3 convolution after
    MobileNets, batch normalisation, and a shortcut where input and output have one shape
    (CornerNet-Lite, arXiv:1904.08900, section 4, table 1). No ReLU follows the squeeze.

    Attribute names are frozen: weights of the reference depend on them.

    Args:
        in_channels: number of channels.
        out_channels: number of channels, even: each kind of convolution gives one half.
        stride: 1, or 2 to halve the size, rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        half = out_channels // 2
        self.conv1 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv_1x1 = nn.Conv2d(half, half, 1, stride=stride, bias=False)
        self.conv_3x3 = nn.Conv2d(half, half, 3, stride=stride, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.has_skip = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, out_channels, H/stride, W/stride]."""
        y = norm(self.bn1, self.conv1(x))
        y = torch.cat((self.conv_1x1(y), self.conv_3x3(y)), 1)
        return norm(self.bn2, y, x if self.has_skip else None, math.inf)
