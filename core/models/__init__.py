"""The detectors: a config's ``model_name`` is looked up in :data:`MODELS`."""

from types import ModuleType

from ..config.bases import model_of
from ..config.errors import UserError
from ..config.loading import Config
from . import (
    centernet,
    centripetalnet,
    cornernet,
    cornernet_lite0,
    cornernet_saccade,
    cornernet_squeeze,
    faster_rcnn,
)
from .detector import Detector

MODELS: dict[str, ModuleType] = {
    "CornerNet": cornernet,
    "CornerNet_Squeeze": cornernet_squeeze,
    "CornerNet_Saccade": cornernet_saccade,
    "CenterNet": centernet,
    "CentripetalNet": centripetalnet,
    "FasterRCNN": faster_rcnn,
    "CornerNet_Lite0": cornernet_lite0,  # of no paper
}


def build(config: Config, num_classes: int) -> Detector:
    """Builds the detector that a config names, with fresh weights.

    Args:
        config: whose ``model_name`` is a key of :data:`MODELS`.
        num_classes: number of object classes C.

    Raises:
        UserError: no such model, or the config's ``model`` section does not fit it.
    """
    if config.model_name not in MODELS:
        raise UserError(
            f"{config.path}: there is no model {config.model_name!r}; there are {', '.join(MODELS)}"
        )
    head = model_of(config.name)
    if head in MODELS and head != config.model_name:
        raise UserError(
            f"{config.path}: it is named after {head}, and of its base or its model_name it is a "
            f"{config.model_name}; give the file another name"
        )
    return MODELS[config.model_name].build(config, num_classes)
