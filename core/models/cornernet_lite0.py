"""CornerNet on a pyramid over EfficientNet-Lite0: a small detector for one's own data.

No paper has it: it is :mod:`.cornernet` with other defaults. Its corners are paired by the size of
the box that each of them predicts, and by its centre.
"""

from dataclasses import dataclass
from typing import Literal

from ..config.loading import Config
from .cornernet import build_on_pyramid
from .corners import CornerPyramid
from .detector import Detector


@dataclass(frozen=True)
class Architecture(CornerPyramid):
    """The ``model`` section of a config, as in :class:`.corners.CornerPyramid`."""

    head_channels: int = 96
    pooling_channels: int = 64
    pairing: Literal["embedding", "centripetal"] = "centripetal"


def build(config: Config, num_classes: int) -> Detector:
    """Builds it with fresh weights; errors as :func:`core.models.build`."""
    return build_on_pyramid(Architecture, config, num_classes)
