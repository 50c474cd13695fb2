"""Training samples of CornerNet and CornerNet-Squeeze (CornerNet, section 4.1)."""

import numpy as np

from ...structures import Sample
from .. import transforms
from ..transforms import finish_sample
from . import CropSettings


def sample_corners(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator | None,
    settings: CropSettings,
) -> Sample:
    """Crops, resizes and flips an image, clips its boxes, and draws its change of colour.

    Args:
        image: uint8 [h, w, 3], BGR.
        boxes: float32 [n, 4], pixels of ``image``.
        labels: int64 [n].
        rng: draws everything; None: no crop, flip or change of colour.
        settings: settings of the crop, which is resized to ``input_size``, and of the colours.

    Returns:
        The sample. Boxes are clipped; those of which too little is left are then dropped.
    """
    boxes, input_size = boxes.astype(np.float32), settings.input_size
    if rng is not None and settings.crop:
        scales, border = settings.scales, settings.border
        size, center = transforms.draw_crop(image.shape[:2], input_size, scales, border, rng)
        image, boxes = transforms.crop(image, boxes, size, center)
    image, boxes = transforms.resize(image, boxes, input_size)
    clipped = transforms.clip_boxes(boxes, input_size)
    seen = transforms.clip_to_edges(boxes, input_size)
    kept = transforms.is_visible(seen, boxes, settings.min_visible)
    kept &= transforms.has_area(clipped)
    boxes, labels = clipped[kept], labels[kept]
    color, lighting = settings.color, settings.lighting
    return finish_sample(image, boxes, labels, rng, color=color, lighting=lighting)
