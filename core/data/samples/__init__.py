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

SampleFunction = Callable[[np.ndarray, np.ndarray, np.ndarray, np.random.Generator | None], Sample]


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
    """

    input_size: Size
    scales: Sequence[float]
    border: int
    crop: bool
    color: bool
    lighting: bool

    @classmethod
    def of(cls, db: Db) -> "CropSettings":
        """Takes the settings from a config's ``db`` section."""
        return cls(db.input_size, db.scales, db.border, db.rand_crop, db.rand_color, db.lighting)


def sample_unchanged(
    sample: SampleFunction,
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator | None,
) -> Sample:
    """Makes a sample without augmentation (``db.data_aug`` false); ``rng`` is not used."""
    return sample(image, boxes, labels, None)
