"""Transforms of an image with its boxes: crop, resize, clip, flip; the last step of every sample.

Images are uint8 [height, width, 3], boxes float32 [n, 4]; sizes are (height, width) and points
(y, x), in pixels. No function changes its arguments; a crop may be a view of its image.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from ..structures import Sample
from .color import NORMALIZE, color_matrix

Size = tuple[int, int]


def crop_border(border: int, side: int) -> int:
    """Computes the distance of a crop's centre from the edges: ``border``, halved until it fits.

    Args:
        border: the wanted distance, at least 1.
        side: height or width of the image.

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
    """Draws size and centre of a crop: the view times a scale, with the centre off the edges.

    Args:
        image_size: height and width of the image.
        view_size: the size that the crop will be resized to.
        scales: scales to choose from; a scale above 1 makes the image appear smaller.
        border: wanted distance of the centre from the edges, as in :func:`crop_border`.
        rng: draws three numbers.

    Returns:
        Size and centre of the crop.
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
    """Crops an image about a centre; what lies outside the image is black.

    The crop reaches half its size, rounded down, to each side of its centre: the last row or column
    of a crop of odd size stays black, as in the reference. Boxes move along and are not clipped.

    Args:
        image: uint8 [h, w, 3].
        boxes: float32 [n, 4].
        size: height and width of the crop.
        center: the point of the image that lies at ``size // 2`` in the crop.
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


def fitted_size(size: Size, limits: Size, scale: float = 1) -> Size:
    """Computes the size of an image that is scaled, keeping its aspect ratio.

    Args:
        size: height and width of the image.
        limits: height and width into which the image just fits at scale 1.
        scale: 1, or a multiple of the size that fits.

    Returns:
        Height and width in whole pixels, at least 1.
    """
    zoom = min(limits[0] / size[0], limits[1] / size[1]) * scale
    return max(1, round(size[0] * zoom)), max(1, round(size[1] * zoom))


def reduce_before(image: np.ndarray, zoom: float) -> np.ndarray:
    """Averages squares of pixels of an image that will shrink to less than half.

    Bilinear interpolation alone would skip pixels. What is left to do is between 1/2 and 1.

    Args:
        image: uint8 [h, w, 3].
        zoom: pixels of the result per pixel of the image.

    Returns:
        uint8 [about h / n, about w / n, 3], n being 1 / zoom, rounded down; the image itself if n
        is 1 or 0. The edges of the result are the edges of the image.
    """
    factor = int(1 / zoom)
    if factor < 2:
        return image
    height, width = (max(1, round(side / factor)) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def resize_smoothly(image: np.ndarray, size: Size) -> np.ndarray:
    """Resizes an image uint8 [h, w, 3] bilinearly, after :func:`reduce_before`."""
    height, width = size
    zoom = ((height * width) / (image.shape[0] * image.shape[1])) ** 0.5
    image = reduce_before(image, zoom)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def center_in(image: np.ndarray, size: Size) -> tuple[np.ndarray, tuple[int, int]]:
    """Puts an image into the middle of a black canvas, with their pixels ``side // 2`` aligned.

    Args:
        image: uint8 [h, w, 3].
        size: (height, width) of the canvas, no smaller than the image.

    Returns:
        The canvas, uint8 [*size, 3], and (y, x) of the image in it.
    """
    height, width = image.shape[:2]
    canvas = np.zeros((*size, 3), np.uint8)
    top, left = size[0] // 2 - height // 2, size[1] // 2 - width // 2
    canvas[top : top + height, left : left + width] = image
    return canvas, (top, left)


def resize(image: np.ndarray, boxes: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Resizes an image bilinearly, with its boxes.

    Args:
        image: uint8 [h, w, 3].
        boxes: float32 [n, 4].
        size: new height and width.
    """
    ratios = np.array([size[1] / image.shape[1], size[0] / image.shape[0]] * 2)
    resized = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return resized, (boxes * ratios).astype(np.float32)


def clip_boxes(boxes: np.ndarray, size: Size) -> np.ndarray:
    """Clips boxes [n, 4] to the pixels of an image of ``size``: 0 .. side - 1."""
    height, width = size
    limits = np.array([width - 1, height - 1] * 2, np.float32)
    return np.clip(boxes, np.float32(0), limits)


def clip_to_edges(boxes: np.ndarray, size: Size) -> np.ndarray:
    """Clips boxes [n, 4] to the edges of an image of ``size``: 0 .. side."""
    return clip_boxes(boxes, (size[0] + 1, size[1] + 1))


def has_area(boxes: np.ndarray) -> np.ndarray:
    """Returns True for boxes [n, 4] with a width and a height above 0: bool [n]."""
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def area(boxes: np.ndarray) -> np.ndarray:
    """Computes the areas of boxes [n, 4]: [n]."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def is_visible(clipped: np.ndarray, whole: np.ndarray, min_visible: float) -> np.ndarray:
    """Returns True for boxes of which enough is left after they were clipped: bool [n].

    Args:
        clipped: [n, 4], the boxes after clipping to the edges of what can be seen.
        whole: [n, 4], the boxes before.
        min_visible: least fraction of the area that must be left; 0: all boxes are visible.
    """
    return area(clipped) >= min_visible * area(whole)


def flip(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flips an image [h, w, 3] left to right; x becomes w - x - 1 in its boxes [n, 4]."""
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
    """Flips every second image and draws its change of colour: the last step of every sample.

    Args:
        image: uint8 [height, width, 3], BGR.
        boxes: float32 [n, 4], pixels of ``image``.
        labels: int [n].
        rng: draws flip and colours; None changes neither.
        color: change brightness, contrast and saturation.
        lighting: with ``color``, add PCA lighting too.
    """
    if rng is not None and rng.random() < 0.5:
        image, boxes = flip(image, boxes)
    return colored_sample(image, boxes, labels, rng, color=color, lighting=lighting)


def colored_sample(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator | None,
    *,
    color: bool,
    lighting: bool,
) -> Sample:
    """Draws an image's change of colour; arguments as for :func:`finish_sample`."""
    matrix = NORMALIZE
    if rng is not None and color:
        matrix = color_matrix(image, rng, lighting=lighting)
    return Sample(image.transpose(2, 0, 1), boxes, labels.astype(np.int64), matrix)


def linear_taps(
    positions: np.ndarray, source: np.ndarray | int, target: np.ndarray | int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes which two pixels of a line make each pixel of the resized line, and their weights.

    New pixel = ``(1 - weight) line[first] + weight line[second]``; pixels have their centres at
    half numbers, and a line that gets shorter is not smoothed before. This is
    ``cv2.INTER_LINEAR``, and ``F.interpolate(mode="bilinear")``.

    Args:
        positions: int, numbers of new pixels; those outside 0..target-1 repeat the ends.
        source, target: lengths of the lines, at least 1, of a shape that fits ``positions``.

    Returns:
        first, second: int64, pixels of the source; weight: float32; all of one shape.
    """
    point = (positions + 0.5) * (source / target) - 0.5
    point = np.clip(point, 0, source - 1)
    first = point.astype(np.int64)
    second = np.minimum(first + 1, source - 1)
    return first, second, (point - first).astype(np.float32)
