"""Training samples: what each family of detectors is shown of an image.

The functions ``sample_<family>`` take an image (uint8 [h, w, 3], BGR), its boxes (float32 [n, 4]),
its labels (int64 [n]) and the generator of every draw, or None for a sample without augmentation.
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
