"""Training samples: the crop or resize, flip and colours that each family of detectors uses.

The functions ``sample_<family>`` take an image (uint8 [h, w, 3], BGR), its boxes (float32 [n, 4]),
its labels (int64 [n]) and a generator that draws everything, or None for no augmentation.
"""

from collections.abc import Callable

import numpy as np

from ...structures import Sample

SampleFunction = Callable[[np.ndarray, np.ndarray, np.ndarray, np.random.Generator | None], Sample]


def sample_unchanged(
    sample: SampleFunction,
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator | None,
) -> Sample:
    """Makes a sample without augmentation (``db.data_aug`` false); ``rng`` is not used."""
    return sample(image, boxes, labels, None)
