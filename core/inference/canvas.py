"""Test images as the network takes them: resized and padded."""

import cv2
import numpy as np

from ..data.transforms import Size, center_in, fitted_size, resize_smoothly


def resize_by(image: np.ndarray, scale: float) -> np.ndarray:
    """Resizes an image uint8 [h, w, 3] bilinearly to ``int(h * scale)`` x ``int(w * scale)``."""
    height, width = (max(1, int(side * scale)) for side in image.shape[:2])
    if (height, width) == image.shape[:2]:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def fit_in_canvas(
    image: np.ndarray, scale: float, input_size: Size, coarsest_stride: int
) -> tuple[np.ndarray, tuple[int, int], Size]:
    """Lays out an image as it is trained with ``db.sampling`` "fit".

    A side of the canvas is as many pixels short of a multiple of ``coarsest_stride`` as that of the
    training images, so that output cells lie on both in the same way.

    Args:
        image: uint8 [h, w, 3].
        scale: 1, or a multiple of the size at which the image fits into ``input_size``.
        input_size: height and width of the training images.
        coarsest_stride: pixels per cell of the network's coarsest map.

    Returns:
        The canvas, uint8 [H, W, 3]; (y, x) of the resized image in it; and the latter's size.
    """
    size = fitted_size(image.shape[:2], input_size, scale)
    sides = []
    for side, trained in zip(size, input_size, strict=True):
        lacking = -trained % coarsest_stride
        sides.append(-(-(side + lacking) // coarsest_stride) * coarsest_stride - lacking)
    canvas, corner = center_in(resize_smoothly(image, size), (sides[0], sides[1]))
    return canvas, corner, size
