"""What backbones learnt on ImageNet, from a file of torchvision's weights."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, VGG16_Weights

from ..checkpoint.snapshot import read_weights
from ..config.errors import UserError
from ..data.color import MEAN, STD

logger = logging.getLogger(__name__)

# Of RGB in 0..1, with which torchvision's networks were trained.
_RGB_MEAN = torch.tensor([0.485, 0.456, 0.406])
_RGB_STD = torch.tensor([0.229, 0.224, 0.225])


@dataclass(frozen=True)
class Source:
    """Weights of torchvision's, and the place that they take in a network.

    Attributes:
        weights: names the file and where to get it.
        prefixes: what our keys begin with, and what torchvision's begin with in its place.
        first: our key of the first convolution's weight.
        bias: our key of what is added to its output.
        subtracted: ``bias`` is the mean that a batch norm subtracts.
        besides: what a mend of weights that do not fit says beside where to get these.
    """

    weights: ResNet18_Weights | VGG16_Weights
    prefixes: Mapping[str, str]
    first: str
    bias: str
    subtracted: bool
    besides: str


VGG16 = Source(
    VGG16_Weights.IMAGENET1K_V1,
    {
        "backbone.": "features.",
        "roi_heads.box_head.fc6.": "classifier.0.",
        "roi_heads.box_head.fc7.": "classifier.3.",
    },
    first="backbone.0.weight",
    bias="backbone.0.bias",
    subtracted=False,
    besides=", and leave model.channels, batch_norm, pooled_size and head_channels as they are by "
    "default",
)
RESNET18 = Source(
    ResNet18_Weights.IMAGENET1K_V1,
    {"backbone.body.": ""},
    first="backbone.body.conv1.weight",
    bias="backbone.body.bn1.running_mean",
    subtracted=True,
    besides="",
)


def load_imagenet_weights_(network: nn.Module, path: str, where: str, source: Source) -> None:
    """Gives the parts of a network that ``source`` names their weights, in place.

    They were learnt on RGB with ImageNet's mean and deviation. The first convolution takes the
    change from this frame's input, BGR with COCO's, into its weights; nothing else has to know.
    The published files are older than a batch norm's count of its batches, which keeps its own.

    Args:
        network: a Faster R-CNN on VGG16, or a CenterNet on ResNet-18.
        path: the file of torchvision's weights.
        where: file, section and key that name the path, for messages.
        source: which weights they are.

    Raises:
        UserError: no such file, or its weights are not those of this backbone.
    """
    origin = f"torchvision's {source.weights}, at {source.weights.url}"
    if not Path(path).is_file():
        raise UserError(
            f"{where}: there is no file {path}; nothing is downloaded here: get {origin}, or set "
            "model.backbone_weights to null to train from scratch"
        )
    own, given = network.state_dict(), read_weights(path)
    taken: dict[str, Tensor] = {}
    for prefix, theirs in source.prefixes.items():
        for key in own:
            if key.startswith(prefix) and not key.endswith(".num_batches_tracked"):
                value = given.get(theirs + key.removeprefix(prefix))
                if value is None or value.shape != own[key].shape or not value.isfinite().all():
                    raise UserError(
                        f"{where}: {path} has no weights for {key} {list(own[key].shape)}; get "
                        f"{origin}{source.besides}"
                    )
                taken[key] = value
    sign = -1 if source.subtracted else 1
    weight, bias = for_normalized_bgr(taken[source.first], sign * taken[source.bias])
    taken |= {source.first: weight, source.bias: sign * bias}
    network.load_state_dict({**own, **taken})
    logger.info("backbone: %s", path)


def for_normalized_bgr(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """A first convolution for torchvision's input, made one for this frame's.

    The two give the same, but where they reach beyond the edge of the picture: the colour that
    they meet there is the mean, and the means differ by less than a tenth of a deviation.

    Args:
        weight: [channels, 3, h, w], for RGB with ImageNet's mean and deviation.
        bias: [channels].

    Returns:
        Weight and bias for BGR with :data:`core.data.color.MEAN` and ``STD``.
    """
    mean, std = torch.from_numpy(MEAN).flip(0), torch.from_numpy(STD).flip(0)  # RGB
    shift = (mean - _RGB_MEAN) / _RGB_STD
    shifted = bias + (weight.sum((2, 3)) * shift).sum(1)
    return (weight * (std / _RGB_STD)[:, None, None]).flip(1), shifted
