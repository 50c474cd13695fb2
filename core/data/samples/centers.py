"""Training samples of CenterNet (arXiv:1904.07850, section 5), and the warp that makes them."""

import cv2
import numpy as np

from ...structures import Sample
from .. import transforms
from ..transforms import Size, finish_sample
from . import CropSettings


def sample_centers(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator | None,
    settings: CropSettings,
) -> Sample:
    """Scales a window of an image to the input size, flips it, and draws its change of colour.

    The window has the input's aspect ratio; at scale 1 it just holds the whole image.

    Args:
        image: uint8 [h, w, 3], BGR.
        boxes: float32 [n, 4], pixels of ``image``.
        labels: int64 [n].
        rng: draws everything; None: the whole image, without flip or change of colour.
        settings: settings of the window, which is drawn as a crop is, and of the colours.

    Returns:
        The sample. Boxes may reach beyond its image; those of which too little lies inside are
        dropped.
    """
    size, input_size = image.shape[:2], settings.input_size
    window = whole_window(size, input_size)
    center: tuple[float, float] = (size[0] / 2, size[1] / 2)
    if rng is not None and settings.crop:
        scales, border = settings.scales, settings.border
        window, center = transforms.draw_crop(size, window, scales, border, rng)
    zoom = input_size[1] / max(1, window[1])  # a fraction of a pixel rounds down to 0
    image = warp(image, center, zoom, input_size)
    boxes = warp_boxes(boxes, center, zoom, input_size)
    seen = transforms.clip_to_edges(boxes, input_size)
    kept = transforms.is_visible(seen, boxes, settings.min_visible)
    kept &= transforms.has_area(transforms.clip_boxes(boxes, input_size))
    color, lighting = settings.color, settings.lighting
    return finish_sample(image, boxes[kept], labels[kept], rng, color=color, lighting=lighting)


def whole_window(size: Size, input_size: Size) -> Size:
    """Computes the smallest window of the input's aspect ratio that holds a whole image.

    Args:
        size: height and width of the image, in pixels.
        input_size: height and width of the input; if they are equal, the window is a square of the
            image's longer side.

    Returns:
        Height and width of the window.
    """
    zoom = max(size[0] / input_size[0], size[1] / input_size[1])
    return max(1, round(input_size[0] * zoom)), max(1, round(input_size[1] * zoom))


def warp(image: np.ndarray, center: tuple[float, float], zoom: float, size: Size) -> np.ndarray:
    """Moves a point of an image into the middle of the result and scales about it, bilinearly.

    Pixel (u, v) of the result shows the point ((u - width / 2) / zoom + x, (v - height / 2) / zoom
    + y) of the image; outside the image it is black.

    Args:
        image: uint8 [h, w, 3].
        center: the point (y, x), in pixels.
        zoom: pixels of the result per pixel of the image.
        size: height and width of the result.
    """
    matrix = np.array([[zoom, 0, _shift(center[1], zoom, size[1])], [0, zoom, 0]])
    matrix[1, 2] = _shift(center[0], zoom, size[0])
    return cv2.warpAffine(image, matrix, (size[1], size[0]), flags=cv2.INTER_LINEAR)


def warp_boxes(
    boxes: np.ndarray, center: tuple[float, float], zoom: float, size: Size
) -> np.ndarray:
    """Moves boxes [n, 4] as :func:`warp` moves their image: float32 [n, 4]."""
    shift = [_shift(center[1], zoom, size[1]), _shift(center[0], zoom, size[0])] * 2
    return (boxes * zoom + shift).astype(np.float32)


def _shift(center: float, zoom: float, side: int) -> float:
    return side / 2 - center * zoom
