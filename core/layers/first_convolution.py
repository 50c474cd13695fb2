"""The first convolution of networks that were trained on images with another normalisation.

Most published weights are for RGB with ImageNet's mean and deviation; images here are BGR with
COCO's.
"""

import torch
from torch import Tensor

from ..data.color import MEAN, STD
from .backbones import IMAGENET


def adapt_first_convolution_(
    weights: dict[str, Tensor], weight: str, bias: str, subtracted: bool
) -> None:
    """Converts a network's weights for RGB with ImageNet's mean and deviation, in the dictionary.

    The tensors themselves are not changed; the two that differ are replaced.

    Args:
        weights: the network's weights by key.
        weight: key of the first convolution's weight.
        bias: key of what is added to its output.
        subtracted: True: ``bias`` is the mean that a batch norm subtracts.
    """
    sign = -1 if subtracted else 1
    weights[weight], added = for_normalized_bgr(weights[weight], sign * weights[bias])
    weights[bias] = sign * added


def for_normalized_bgr(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Converts a first convolution for RGB with ImageNet's mean and deviation.

    Their outputs are the same, except where they reach beyond the edge of the image: the padding
    has the mean colour, and the means differ by less than a tenth of a deviation.

    Args:
        weight: [channels, 3, h, w], for RGB with ImageNet's mean and deviation.
        bias: [channels].

    Returns:
        Weight and bias for BGR with :data:`core.data.color.MEAN` and ``STD``.
    """
    mean, std = torch.from_numpy(MEAN).flip(0), torch.from_numpy(STD).flip(0)  # RGB
    their_mean, their_std = map(torch.tensor, IMAGENET)
    shift = (mean - their_mean) / their_std
    shifted = bias + (weight.sum((2, 3)) * shift).sum(1)  # [channels]
    return (weight * (std / their_std)[:, None, None]).flip(1), shifted
