"""A feature pyramid (Lin et al. 2017, arXiv:1612.03144), of which one map is kept."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from .backbones import STRIDES
from .blocks import ConvBnRelu
from .hourglass import StackMaps
from .upsample import repeat_cells


class PyramidFeatures(nn.Module):
    """Merges the maps of a backbone, from one stride on, into one map of that stride.

    As in the paper's section 3 and figure 3, a 1x1 convolution gives every map the same number of
    channels, and each is added to the next finer one, doubled by repeating its cells. Of the maps
    that are merged so, the finest alone goes through a 3x3 convolution, here with batch norm and
    ReLU, and is kept: detectors of keypoints find objects of every size on one map.

    The 1x1 convolutions have no bias, which the batch norm would remove.

    Args:
        channels: number of channels of the backbone's maps, at the strides
            :data:`core.layers.backbones.STRIDES`.
        stride: one of these; finer maps are not used.
        out_channels: number of channels of the merged maps.
    """

    def __init__(self, channels: Sequence[int], stride: int, out_channels: int):
        super().__init__()
        self.first = STRIDES.index(stride)
        self.laterals = nn.ModuleList(
            nn.Conv2d(count, out_channels, 1, bias=False) for count in channels[self.first :]
        )
        self.out = ConvBnRelu(out_channels, out_channels)
        for lateral in self.laterals:
            assert isinstance(lateral, nn.Conv2d)
            nn.init.kaiming_uniform_(lateral.weight, a=1)  # keeps the variance of the maps
        nn.init.kaiming_normal_(self.out.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, maps: Sequence[Tensor]) -> list[StackMaps]:
        """Computes the features of one stack, in the form of :class:`.hourglass.StackedHourglass`.

        Args:
            maps: [B, channels[i], H[i], W[i]] of a backbone, finest first.
        """
        used = [
            lateral(map_) for lateral, map_ in zip(self.laterals, maps[self.first :], strict=True)
        ]
        merged = [used[-1]]  # coarsest first
        for finer in reversed(used[:-1]):
            height, width = finer.shape[2:]
            merged.append(finer + repeat_cells(merged[-1], (height, width)))
        return [StackMaps(self.out(merged[-1]), merged)]


def pyramid_maps(backbone: nn.Module, pyramid: PyramidFeatures, images: Tensor) -> list[StackMaps]:
    """Computes the features of one stack from images [B, 3, height, width], normalised.

    Args:
        backbone: a :class:`.backbones.Backbone`.
        pyramid: the pyramid over its maps.
        images: images of any size; the maps have its sides over the stride, rounded up to whole
            cells of the coarsest map.
    """
    stacks: list[StackMaps] = pyramid(backbone(pad_to_cells(images)))
    return stacks


def pad_to_cells(images: Tensor) -> Tensor:
    """Pads images to whole cells of the coarsest map, at the right and at the bottom.

    Then every map has twice as many cells as the next coarser one, cell by cell, also those of
    backbones that would round down. Zero is the mean colour.

    Args:
        images: [B, 3, height, width], normalised.

    Returns:
        [B, 3, H, W], H and W the next multiples of 32.
    """
    height, width = images.shape[2:]
    return F.pad(images, (0, -width % STRIDES[-1], 0, -height % STRIDES[-1]))
