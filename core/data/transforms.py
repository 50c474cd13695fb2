"""Geometry of a training picture: crop, resize, clip, flip, on the image and its boxes together.

Images are uint8 [height, width, 3], boxes float32 [n, 4]; sizes are (height, width) and points
(y, x), in pixels. No function changes what it is given; a crop may be a view of its image.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from ..structures import Sample
from .color import NORMALIZE, color_matrix

Size = tuple[int, int]


def crop_border(border: int, side: int) -> int:
    """How far the centre of a crop keeps from the edges: ``border``, halved until it leaves room.

    Args:
        border: the distance wanted, at least 1.
        side: height or width of the picture.

    Returns:
        b >= 0 with ``side - b > b``.
    """
    while side - border <= border:
        border //= 2
    return border


def draw_crop(
    image_size: Size,
    view_size: Size,
    scales: Sequence[float],
    border: int,
    rng: np.random.Generator,
) -> tuple[Size, tuple[int, int]]:
    """Draws a window: the view times one of the scales, about a centre away from the borders.

    Args:
        image_size: of the picture.
        view_size: what the window will be resized to.
        scales: to choose from; above 1 the picture appears smaller.
        border: see :func:`crop_border`.
        rng: three numbers are drawn from it.

    Returns:
        size and centre of the window.
    """
    scale = scales[int(rng.integers(len(scales)))]
    size = (int(view_size[0] * scale), int(view_size[1] * scale))
    margins = [crop_border(border, side) for side in image_size]
    y, x = (
        int(rng.integers(margin, side - margin))
        for margin, side in zip(margins, image_size, strict=True)
    )
    return size, (y, x)


def crop(
    image: np.ndarray, boxes: np.ndarray, size: Size, center: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a window out of an image; what lies outside the image is black.

    The window reaches half its size, rounded down, to each side of its centre: the last row or
    column of a window of odd size stays black, as in the reference. Boxes move along, unclipped.

    Args:
        image: uint8 [h, w, 3].
        boxes: float32 [n, 4].
        size: of the window.
        center: a point of the image that comes to lie at ``size // 2``.
    """
    before, inside, after = [], [], []
    for side, length, point in zip(image.shape[:2], size, center, strict=True):
        half = length // 2
        start, stop = max(point - half, 0), min(point + half, side)
        before.append(half - point + start)
        inside.append(slice(start, stop))
        after.append(length - before[-1] - (stop - start))
    window = image[inside[0], inside[1]]
    if any(before) or any(after):
        window = cv2.copyMakeBorder(
            window, before[0], after[0], before[1], after[1], cv2.BORDER_CONSTANT, value=(0, 0, 0)
        )
    shift = [before[1] - inside[1].start, before[0] - inside[0].start]
    return window, boxes + np.array(shift * 2, np.float32)


def resize(image: np.ndarray, boxes: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Resizes an image bilinearly, and its boxes along.

    Args:
        image: uint8 [h, w, 3].
        boxes: float32 [n, 4].
        size: height and width wanted.
    """
    ratios = np.array([size[1] / image.shape[1], size[0] / image.shape[0]] * 2)
    resized = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return resized, (boxes * ratios).astype(np.float32)


def clip_boxes(boxes: np.ndarray, size: Size) -> np.ndarray:
    """Moves the corners [n, 4] into the pixels of an image of ``size``: 0 .. side - 1."""
    height, width = size
    limits = np.array([width - 1, height - 1] * 2, np.float32)
    return np.clip(boxes, np.float32(0), limits)


def has_area(boxes: np.ndarray) -> np.ndarray:
    """Which boxes [n, 4] have a width and a height above 0: bool [n]."""
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def flip(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mirrors an image [h, w, 3] left to right; x becomes w - x - 1 in its boxes [n, 4]."""
    last = np.float32(image.shape[1] - 1)
    flipped = boxes.copy()
    flipped[:, [0, 2]] = last - boxes[:, [2, 0]]
    return cv2.flip(image, 1), flipped


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
        image, boxes = flip(image, boxes)
    matrix = NORMALIZE
    if rng is not None and color:
        matrix = color_matrix(image, rng, lighting=lighting)
    return Sample(image.transpose(2, 0, 1), boxes, labels.astype(np.int64), matrix)
