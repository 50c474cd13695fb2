"""Faster R-CNN's start: what VGG16 learnt on ImageNet, from a file of torchvision's weights."""

import logging
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import VGG16_Weights

from core.checkpoint import read_weights
from core.errors import UserError
from core.sample.color import MEAN, STD

logger = logging.getLogger(__name__)

# Of RGB in 0..1, with which torchvision's networks were trained.
_RGB_MEAN = torch.tensor([0.485, 0.456, 0.406])
_RGB_STD = torch.tensor([0.229, 0.224, 0.225])

# Our keys begin like the left ones, torchvision's like the right ones.
_PREFIXES = {
    "backbone.": "features.",
    "roi_heads.box_head.fc6.": "classifier.0.",
    "roi_heads.box_head.fc7.": "classifier.3.",
}


def load_imagenet_weights_(network: nn.Module, path: str, where: str) -> None:
    """Gives the backbone and the two linear layers of a Faster R-CNN their weights, in place.

    They were learnt on RGB with ImageNet's mean and deviation. The first convolution takes the
    change from this frame's input, BGR with COCO's, into its weights; nothing else has to know.

    Args:
        network: :class:`core.models.faster_rcnn.FasterRCNN` with the convolutions of VGG16.
        path: the file of torchvision's ``VGG16_Weights.IMAGENET1K_V1``.
        where: file, section and key that name the path, for messages.

    Raises:
        UserError: no such file, or its weights are not those of this backbone.
    """
    origin = f"torchvision's VGG16_Weights.IMAGENET1K_V1, at {VGG16_Weights.IMAGENET1K_V1.url}"
    if not Path(path).is_file():
        raise UserError(
            f"{where}: there is no file {path}; nothing is downloaded here: get {origin}, or set "
            "model.backbone_weights to null to train from scratch"
        )
    own, given = network.state_dict(), read_weights(path)
    taken: dict[str, Tensor] = {}
    for prefix, theirs in _PREFIXES.items():
        for key in own:
            if key.startswith(prefix):
                value = given.get(theirs + key.removeprefix(prefix))
                if value is None or value.shape != own[key].shape or not value.isfinite().all():
                    raise UserError(
                        f"{where}: {path} has no weights for {key} {list(own[key].shape)}; "
                        f"{origin} fits model.channels, batch_norm, pooled_size and head_channels "
                        "as they are by default"
                    )
                taken[key] = value
    first = taken["backbone.0.weight"], taken["backbone.0.bias"]
    taken["backbone.0.weight"], taken["backbone.0.bias"] = for_normalized_bgr(*first)
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
        Weight and bias for BGR with :data:`core.sample.color.MEAN` and ``STD``.
    """
    mean, std = torch.from_numpy(MEAN).flip(0), torch.from_numpy(STD).flip(0)  # RGB
    shift = (mean - _RGB_MEAN) / _RGB_STD
    shifted = bias + (weight.sum((2, 3)) * shift).sum(1)
    return (weight * (std / _RGB_STD)[:, None, None]).flip(1), shifted
