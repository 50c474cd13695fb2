"""What is done to every training picture in the end."""

import numpy as np

from ..structures import Sample
from . import transforms
from .color import NORMALIZE, color_matrix


def finish_sample(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator | None,
    *,
    color: bool,
    lighting: bool,
) -> Sample:
    """Mirrors every second picture and draws its change of colour.

    Args:
        image: uint8 [height, width, 3], BGR.
        boxes: float32 [n, 4], pixels of ``image``.
        labels: int [n].
        rng: source of every draw; None: neither mirrored nor changed in colour.
        color: whether to change brightness, contrast, saturation and, with ``lighting``, lighting.
        lighting: see ``color``.
    """
    if rng is not None and rng.random() < 0.5:
        image, boxes = transforms.flip(image, boxes)
    matrix = NORMALIZE
    if rng is not None and color:
        matrix = color_matrix(image, rng, lighting=lighting)
    return Sample(image.transpose(2, 0, 1), boxes, labels.astype(np.int64), matrix)
