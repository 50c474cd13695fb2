"""ResNet-18 with upsampling, as a backbone for detectors of keypoints."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torchvision.models import resnet18

from .norm import Layers

_CHANNELS = 512  # channels of the last map of a ResNet-18


class UpsampledResNet18(nn.Module):
    """torchvision's ResNet-18, and transposed convolutions that double its last map.

    After "Simple baselines" (Xiao et al. 2018, arXiv:1804.06208, section 2). The backbone with
    which CenterNet was published has deformable convolutions too (arXiv:1904.07850, section 5).

    The keys below ``body`` are torchvision's.

    Args:
        channels: numbers of channels of the upsampled maps; each map doubles the size.
        convolutions: True: a 3x3 convolution precedes each transposed one, as in mmdetection.
    """

    def __init__(self, channels: Sequence[int], convolutions: bool = False):
        super().__init__()
        layers = list(resnet18(weights=None).named_children())[:-2]  # without pooling and classes
        self.body = nn.Sequential()
        for name, layer in layers:
            self.body.add_module(name, layer)
        self.up = nn.Sequential(
            *(
                self._doubling(before, after, convolutions)
                for before, after in pairwise((_CHANNELS, *channels))
            )
        )

    @staticmethod
    def _doubling(before: int, after: int, convolution: bool) -> Layers:
        first = nn.Conv2d(before, after, 3, padding=1, bias=False)
        return Layers(
            *((first, nn.BatchNorm2d(after), nn.ReLU(inplace=True)) if convolution else ()),
            nn.ConvTranspose2d(after if convolution else before, after, 4, 2, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        )

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, height, width], normalised -> [B, channels[-1], H, W].

        H and W are the image's sides over 32, rounded up, doubled as often as there are channels.
        """
        return self.up(self.body(images))
