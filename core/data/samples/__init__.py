"""Training samples: the crop or resize, flip and colours that each family of detectors uses.

The functions ``sample_<family>`` take an image (uint8 [h, w, 3], BGR), its boxes (float32 [n, 4]),
its labels (int64 [n]) and a generator that draws everything, or None for no augmentation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...config.schema import Db
from ...structures import Sample
from ..transforms import Size

# Image, boxes and labels, as the functions take them.
Labelled = tuple[np.ndarray, np.ndarray, np.ndarray]
# Takes image, boxes, labels and generator; with ``db.mosaic`` also a list of :data:`Labelled` named
# ``others``.
SampleFunction = Callable[..., Sample]


@dataclass(frozen=True)
class CropSettings:
    """Settings of the samples of CornerNet and CenterNet.

    Attributes:
        input_size: height and width of the result, in pixels.
        scales: scales of the crop to choose from.
        border: distance of the crop's centre from the edges, in pixels.
        crop: draw a crop; otherwise a sample shows the whole image.
        color: change brightness, contrast and saturation.
        lighting: with ``color``, add PCA lighting too.
        min_visible: fraction of a box's area that must lie in the result; others are dropped.
    """

    input_size: Size
    scales: Sequence[float]
    border: int
    crop: bool
    color: bool
    lighting: bool
    min_visible: float = 0.0

    @classmethod
    def of(cls, db: Db) -> "CropSettings":
        """Takes the settings from a config's ``db`` section."""
        return cls(
            input_size=db.input_size,
            scales=db.scales,
            border=db.border,
            crop=db.rand_crop,
            color=db.rand_color,
            lighting=db.lighting,
            min_visible=db.min_visible,
        )


def sample_unchanged(
    sample: SampleFunction,
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator | None,
) -> Sample:
    """Makes a sample without augmentation (``db.data_aug`` false); ``rng`` is not used."""
    return sample(image, boxes, labels, None)
