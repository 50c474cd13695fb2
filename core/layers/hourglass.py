"""Hourglass networks (Newell et al. 2016, arXiv:1603.06937) as detectors of keypoints use them.

CornerNet (arXiv:1808.01244, section 3.6) halves by strided blocks instead of max pooling, adds the
two branches of a level, and supervises every stack. Attribute names are frozen: weights of the
reference depend on them.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import Block, ConvBnRelu, Residual, conv_bn
from .upsample import RepeatCells

Upsample = Callable[[int], nn.Module]


def nearest_upsample(channels: int) -> nn.Module:
    """Doubles the size by repeating each cell; ``channels`` is not used."""
    return RepeatCells()


def transposed_upsample(channels: int) -> nn.Module:
    """Doubles the size by a transposed 4x4 convolution."""
    return nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1)


class Hourglass(nn.Module):
    """One hourglass, as its outermost level around a smaller hourglass.

    A level halves the map, runs the level below on it, doubles the result and adds it to a branch
    that kept the size.

    Args:
        channels: number of channels of each level's map, finest first; one level more than there
            are halvings.
        blocks: number of blocks in each part of a level, level by level; the last number is that of
            the coarsest map.
        block: makes a block.
        upsample: makes a module that doubles a map, from its number of channels.
    """

    def __init__(
        self, channels: Sequence[int], blocks: Sequence[int], block: Block, upsample: Upsample
    ):
        super().__init__()
        here, below = channels[:2]
        count = blocks[0]
        self.up1 = nn.Sequential(*(block(here, here) for _ in range(count)))
        self.low1 = nn.Sequential(
            block(here, below, stride=2), *(block(below, below) for _ in range(count - 1))
        )
        self.low2: Hourglass | nn.Sequential
        if len(channels) > 2:
            self.low2 = Hourglass(channels[1:], blocks[1:], block, upsample)
        else:
            self.low2 = nn.Sequential(*(block(below, below) for _ in range(blocks[1])))
        self.low3 = nn.Sequential(
            *(block(below, below) for _ in range(count - 1)), block(below, here)
        )
        self.up2 = upsample(here)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Computes the merged maps of all levels, coarsest first; the last is the output.

        Args:
            x: [B, channels[0], H, W]; H and W divide by 2 as often as the hourglass halves.
        """
        kept = self.up1(x)
        halved = self.low1(x)
        if isinstance(self.low2, Hourglass):
            merged = self.low2(halved)
            below = merged[-1]
        else:
            merged = []
            below = self.low2(halved)
        return [*merged, kept + self.up2(self.low3(below))]


class StackMaps(NamedTuple):
    """Maps of one stack.

    Attributes:
        features: [B, feature_channels, H, W], the input of the heads.
        merged: maps of the hourglass' levels, coarsest first, as :meth:`Hourglass.forward` gives.
    """

    features: Tensor
    merged: list[Tensor]


class StackedHourglass(nn.Module):
    """A stem that reduces the image, and hourglasses one after the other.

    Args:
        stem_channels: channels of the stem's convolution and residual blocks; each halves the size.
        channels, blocks: as for :class:`Hourglass`; ``channels[0]`` equals ``stem_channels[-1]``.
        stacks: number of hourglasses.
        feature_channels: number of channels of the features that the heads read.
        block, upsample: as for :class:`Hourglass`.
        key: prefix of the hourglasses' keys in the state dict; weights depend on it.
    """

    def __init__(
        self,
        stem_channels: Sequence[int],
        channels: Sequence[int],
        blocks: Sequence[int],
        stacks: int,
        feature_channels: int,
        block: Block = Residual,
        upsample: Upsample = nearest_upsample,
        key: str = "hgs",
    ):
        super().__init__()
        width = channels[0]
        assert width == stem_channels[-1] and len(channels) == len(blocks)
        self.pre = nn.Sequential(
            ConvBnRelu(3, stem_channels[0], kernel=7, stride=2),
            *(Residual(before, after, stride=2) for before, after in pairwise(stem_channels)),
        )
        between = range(stacks - 1)
        hourglasses = (Hourglass(channels, blocks, block, upsample) for _ in range(stacks))
        self.add_module(key, nn.ModuleList(hourglasses))
        self.key = key
        self.cnvs = nn.ModuleList(ConvBnRelu(width, feature_channels) for _ in range(stacks))
        self.inters = nn.ModuleList(Residual(width, width) for _ in between)
        self.inters_ = nn.ModuleList(conv_bn(width, width) for _ in between)
        self.cnvs_ = nn.ModuleList(conv_bn(feature_channels, width) for _ in between)

    def forward(self, images: Tensor) -> list[StackMaps]:
        """Computes the maps of every stack.

        Args:
            images: [B, 3, height, width], normalised.
        """
        x = self.pre(images)
        hourglasses = self.get_submodule(self.key).children()
        outputs: list[StackMaps] = []
        for stack, (hourglass, conv) in enumerate(zip(hourglasses, self.cnvs, strict=True)):
            merged = hourglass(x)
            features = conv(merged[-1])
            outputs.append(StackMaps(features, merged))
            if stack < len(self.inters):
                x = F.relu_(self.inters_[stack](x) + self.cnvs_[stack](features))
                x = self.inters[stack](x)
        return outputs
