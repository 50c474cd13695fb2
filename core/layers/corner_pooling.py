"""The corner pooling module of CornerNet: it finds a corner by maxima along two directions."""

import math
from typing import Literal

from torch import Tensor, nn

from cpools_ext import corner_pool_sum

from .blocks import ConvBnRelu
from .norm import norm

Corner = Literal["top_left", "bottom_right"]

TOP_LEFT: Corner = "top_left"
BOTTOM_RIGHT: Corner = "bottom_right"


class CornerPooling(nn.Module):
    """A residual block whose first convolution is replaced by pooling along two directions.

    CornerNet (arXiv:1808.01244), section 3.5 and figure 7.

    Attribute names are frozen: weights of the reference depend on them.

    Args:
        channels: number of channels in and out.
        pooling_channels: number of channels that are pooled.
        corner: :data:`TOP_LEFT` or :data:`BOTTOM_RIGHT`; the directions that are pooled.
    """

    def __init__(self, channels: int, pooling_channels: int, corner: Corner):
        super().__init__()
        self.corner = corner
        self.p1_conv1 = ConvBnRelu(channels, pooling_channels)
        self.p2_conv1 = ConvBnRelu(channels, pooling_channels)
        self.p_conv1 = nn.Conv2d(pooling_channels, channels, 3, padding=1, bias=False)
        self.p_bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = ConvBnRelu(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] -> [B, channels, H, W]."""
        pooled = corner_pool_sum(self.p1_conv1(x), self.p2_conv1(x), self.corner)
        shortcut = norm(self.bn1, self.conv1(x))
        return self.conv2(norm(self.p_bn1, self.p_conv1(pooled), shortcut, math.inf))
