"""The whole picture as a training picture (Faster R-CNN, arXiv:1506.01497, section 3.3)."""

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
    """Resizes a picture as a whole, flips it, and draws its change of colour.

    Args:
        image: uint8 [h, w, 3], BGR.
        boxes: float32 [n, 4], pixels of ``image``.
        labels: int64 [n].
        rng: source of every draw; None: no flip, no change of colour.
        shorter_side, longer_side, least_side: see :func:`fitted_size`.
        color: whether to change brightness, contrast, saturation and, with ``lighting``, lighting.
        lighting: see ``color``.

    Returns:
        The sample, of a size of its own. Boxes are clipped to ``[0, width] x [0, height]``; those
        that are left with no width or height are dropped.
    """
    size = fitted_size(image.shape[:2], shorter_side, longer_side, least_side)
    image, boxes = transforms.resize(image, boxes.astype(np.float32), size)
    boxes = transforms.clip_boxes(boxes, (size[0] + 1, size[1] + 1))  # edges, not pixels
    kept = transforms.has_area(boxes)
    # Mirroring is for the middles of pixels, half a pixel beside their edges.
    middles = boxes[kept] - np.float32(0.5)
    sample = finish_sample(image, middles, labels[kept], rng, color=color, lighting=lighting)
    return replace(sample, boxes=sample.boxes + np.float32(0.5))


def fitted_size(size: Size, shorter_side: int, longer_side: int, least_side: int) -> Size:
    """The size to which a picture is scaled, of its own aspect.

    Args:
        size: (height, width) of the picture.
        shorter_side: what its shorter side becomes,
        longer_side: unless the longer one would be more than this.
        least_side: a side that would be shorter becomes this; such a picture is stretched.
    """
    zoom = min(shorter_side / min(size), longer_side / max(size))
    height, width = (max(least_side, round(side * zoom)) for side in size)
    return height, width
