"""Weights of backbones that were trained on ImageNet, from torchvision's files."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, ResNet50_Weights, VGG16_Weights

from ..checkpoint.snapshot import read_weights
from ..config.errors import UserError
from ..layers.first_convolution import adapt_first_convolution_

logger = logging.getLogger(__name__)

_COUNT = ".num_batches_tracked"  # end of the key of a batch norm's count of batches


@dataclass(frozen=True)
class Source:
    """A file of torchvision's weights, and the keys that they get in a network.

    Attributes:
        weights: torchvision's name and URL of the file.
        prefixes: prefixes of our keys, and those that torchvision's keys have instead.
        first: our key of the first convolution's weight.
        bias: our key of the bias that is added to its output.
        subtracted: True: ``bias`` is the mean that a batch norm subtracts.
        besides: end of the hint for weights that do not fit.
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
    """Loads torchvision's weights into the parts of a network that ``source`` names, in place.

    They were trained on RGB with ImageNet's mean and deviation; the first convolution's weights are
    changed for input in BGR with COCO's. The published files have no count of a batch norm's
    batches; the network keeps its own.

    Args:
        network: a Faster R-CNN on VGG16, or a CenterNet on ResNet-18.
        path: the file of torchvision's weights.
        where: file, section and key that name the path, for messages.
        source: the weights, and their keys.

    Raises:
        UserError: no such file, or its weights are not those of this backbone.
    """
    origin = origin_of(source.weights)
    own = network.state_dict()
    taken, _ = matching_weights(own, Path(path), source.prefixes, where, origin, source.besides)
    adapt_first_convolution_(taken, source.first, source.bias, source.subtracted)
    network.load_state_dict({**own, **taken})
    logger.info("backbone: %s", path)


def origin_of(weights: ResNet18_Weights | ResNet50_Weights | VGG16_Weights) -> str:
    """Says where to get a file of torchvision's weights, for messages."""
    return f"torchvision's {weights}, at {weights.url}"


def require_file(path: Path, where: str, origin: str) -> None:
    """Checks that there is a file of weights.

    Args:
        path: the file.
        where: file, section and key that name it, for messages.
        origin: where to get it.

    Raises:
        UserError: there is none.
    """
    if not path.is_file():
        raise UserError(
            f"{where}: there is no file {path}; nothing is downloaded here: get {origin}, or set "
            "model.backbone_weights to null to train from scratch"
        )


def matching_weights(
    own: Mapping[str, Tensor],
    path: Path,
    prefixes: Mapping[str, str],
    where: str,
    origin: str,
    besides: str = "",
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Reads the weights of parts of a network from a file that has other names for the parts.

    Batch norms' counts of batches are left out, as many published files have none.

    Args:
        own: the network's state dict.
        path: the file.
        prefixes: prefixes of our keys, and those that the file's keys have instead.
        where: file, section and key that name the file, for messages.
        origin: where to get a file that fits.
        besides: end of the hint for weights that do not fit.

    Returns:
        The file's tensors for all keys of ``own`` with one of the prefixes, by our key; and its
        other tensors, by its key.

    Raises:
        UserError: there is no such file; or a tensor is missing, has another shape, or is not
            finite.
    """
    require_file(path, where, origin)
    given = read_weights(path)
    taken: dict[str, Tensor] = {}
    left = {key: value for key, value in given.items() if not key.endswith(_COUNT)}
    for prefix, theirs in prefixes.items():
        for key in own:
            if key.startswith(prefix) and not key.endswith(_COUNT):
                their_key = theirs + key.removeprefix(prefix)
                value = given.get(their_key)
                if value is None or value.shape != own[key].shape or not value.isfinite().all():
                    raise UserError(
                        f"{where}: {path} has no weights for {key} {list(own[key].shape)}; get "
                        f"{origin}{besides}"
                    )
                taken[key] = value
                del left[their_key]
    return taken, left
