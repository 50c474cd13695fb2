"""Training samples that show the whole image (Faster R-CNN, arXiv:1506.01497, section 3.3)."""

from dataclasses import replace

import numpy as np

from ...structures import Sample
from .. import transforms
from ..transforms import Size, finish_sample


def sample_whole(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator | None,
    *,
    shorter_side: int,
    longer_side: int,
    least_side: int,
    color: bool,
    lighting: bool,
) -> Sample:
    """Resizes a whole image, flips it, and draws its change of colour.

    Args:
        image: uint8 [h, w, 3], BGR.
        boxes: float32 [n, 4], pixels of ``image``.
        labels: int64 [n].
        rng: draws everything; None: no flip or change of colour.
        shorter_side, longer_side, least_side: limits of the size, as in :func:`fitted_size`.
        color: change brightness, contrast and saturation.
        lighting: with ``color``, add PCA lighting too.

    Returns:
        The sample, whose size depends on the image. Boxes are clipped to ``[0, width] x
        [0, height]``; those without width or height are then dropped.
    """
    size = fitted_size(image.shape[:2], shorter_side, longer_side, least_side)
    image, boxes = transforms.resize(image, boxes.astype(np.float32), size)
    boxes = transforms.clip_to_edges(boxes, size)
    kept = transforms.has_area(boxes)
    # Flipping counts from the middles of pixels, half a pixel beside their edges.
    middles = boxes[kept] - np.float32(0.5)
    sample = finish_sample(image, middles, labels[kept], rng, color=color, lighting=lighting)
    return replace(sample, boxes=sample.boxes + np.float32(0.5))


def fitted_size(size: Size, shorter_side: int, longer_side: int, least_side: int) -> Size:
    """Computes the size to which an image is resized, keeping its aspect ratio.

    Args:
        size: (height, width) of the image.
        shorter_side: new length of the shorter side, unless the longer one would get too long.
        longer_side: maximum length of the longer side.
        least_side: minimum length of a side; an image that needs it is stretched.

    Returns:
        (height, width).
    """
    zoom = min(shorter_side / min(size), longer_side / max(size))
    height, width = (max(least_side, round(side * zoom)) for side in size)
    return height, width
