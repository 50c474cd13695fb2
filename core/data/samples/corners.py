"""Training samples of CornerNet and CornerNet-Squeeze (CornerNet, section 4.1)."""

from collections.abc import Sequence

import numpy as np

from ...structures import Sample
from .. import transforms
from ..transforms import finish_sample


def sample_corners(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator | None,
    *,
    input_size: tuple[int, int],
    scales: Sequence[float],
    border: int,
    crop: bool,
    color: bool,
    lighting: bool,
) -> Sample:
    """Crops, resizes and flips an image, clips its boxes, and draws its change of colour.

    Args:
        image: uint8 [h, w, 3], BGR.
        boxes: float32 [n, 4], pixels of ``image``.
        labels: int64 [n].
        rng: draws everything; None: no crop, flip or change of colour.
        input_size: height and width of the result, in pixels.
        scales: scales of the crop to choose from.
        border: distance of the crop's centre from the edges, in pixels.
        crop: draw a crop; otherwise the whole image is resized.
        color: change brightness, contrast and saturation.
        lighting: with ``color``, add PCA lighting too.

    Returns:
        The sample. Boxes are clipped; those without width or height are then dropped.
    """
    boxes = boxes.astype(np.float32)
    if rng is not None and crop:
        size, center = transforms.draw_crop(image.shape[:2], input_size, scales, border, rng)
        image, boxes = transforms.crop(image, boxes, size, center)
    image, boxes = transforms.resize(image, boxes, input_size)
    boxes = transforms.clip_boxes(boxes, input_size)
    kept = transforms.has_area(boxes)
    boxes, labels = boxes[kept], labels[kept]
    return finish_sample(image, boxes, labels, rng, color=color, lighting=lighting)
