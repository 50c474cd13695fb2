"""What detectors on a pyramid share: its layers, and the weights and stages of its backbone."""

from dataclasses import replace
from functools import partial
from typing import Protocol

from ..config.loading import Config
from ..layers.backbones import Backbone, make_backbone
from .detector import Detector
from .pretrained import load_backbone_


class OnBackbone(Protocol):
    """The keys of a ``model`` section that say what is below the pyramid."""

    @property
    def backbone(self) -> str:
        """A name that :func:`core.layers.backbones.make_backbone` takes."""
        ...

    @property
    def backbone_weights(self) -> str | None:
        """ImageNet weights that training starts from; None: none."""
        ...


def backbone_of(config: Config, architecture: OnBackbone) -> Backbone:
    """Makes the backbone of a config with fresh weights.

    Args:
        config: the config, for messages.
        architecture: its ``model`` section.

    Raises:
        UserError: as :func:`core.layers.backbones.make_backbone`.
    """
    return make_backbone(architecture.backbone, f"{config.path}: model.backbone")


def on_backbone(
    detector: Detector, config: Config, architecture: OnBackbone, backbone: Backbone
) -> Detector:
    """Completes a detector with the stages of its backbone, and with the weights that it loads.

    Args:
        detector: detector whose network contains the backbone.
        config, architecture: as for :func:`backbone_of`.
        backbone: the backbone.
    """
    load, weights = None, architecture.backbone_weights
    if weights is not None:
        where = f"{config.path}: model.backbone_weights"
        load = partial(load_backbone_, backbone, architecture.backbone, weights, where)
    return replace(detector, stages=lambda: backbone.stages, load_pretrained_=load)
