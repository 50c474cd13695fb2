"""Training pictures without augmentation."""

import numpy as np

from ..structures import Sample
from .loader import SampleFunction


def sample_unchanged(
    sample: SampleFunction,
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator | None,
) -> Sample:
    """``db.data_aug`` false: what validation sees, in training too; ``rng`` is not used."""
    return sample(image, boxes, labels, None)
