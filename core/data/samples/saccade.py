"""Training samples of CornerNet-Saccade (CornerNet-Lite, arXiv:1904.08900, section 3)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...structures import Sample
from .. import transforms
from ..transforms import Size, finish_sample, linear_taps

_JITTER = 15  # pixels; an object in the middle of a crop is moved by less
_MIN_OVERLAP = 0.5  # part of a box that must lie in the crop for the box to be trained


@dataclass(frozen=True)
class SaccadeCropSettings:
    """Settings of the samples of CornerNet-Saccade.

    Attributes:
        input_size: height and width of the result, in pixels.
        scales: scales to choose from for an image without objects.
        ranges: lowest and highest longer side of the objects of each attention map, coarse first.
        min_side: longer side of the smallest object that is trained, in pixels of the result.
        centered: True: in every second crop, the object is near the middle.
        color: change brightness, contrast and saturation.
        lighting: with ``color``, add PCA lighting too.
    """

    input_size: Size
    scales: Sequence[float]
    ranges: Sequence[tuple[int, int]]
    min_side: int
    centered: bool
    color: bool
    lighting: bool


def sample_saccade(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator | None,
    settings: SaccadeCropSettings,
) -> Sample:
    """Resizes an image so that one object gets a size drawn for it, and crops about that object.

    Args:
        image: uint8 [h, w, 3], BGR.
        boxes: float32 [n, 4], pixels of ``image``.
        labels: int64 [n].
        rng: draws everything; None: the whole image, as large as fits, without flip or change of
            colour.
        settings: settings of the crop and of the colours.

    Returns:
        The sample. Boxes are clipped to the visible part of the image; those without width or
        height are then dropped, and those that are small or mostly outside are not usable.
    """
    boxes, input_size = boxes.astype(np.float32), settings.input_size
    size, min_side = image.shape[:2], settings.min_side
    inside = transforms.clip_boxes(boxes, size)
    kept = np.flatnonzero(transforms.has_area(inside))
    scale, reference = min(input_size[0] / size[0], input_size[1] / size[1]), None
    if rng is not None:
        scales, ranges = settings.scales, settings.ranges
        scale, reference = draw_scale(inside[kept], scales, ranges, min_side, input_size, rng)
    scaled_size = max(1, int(size[0] * scale)), max(1, int(size[1] * scale))
    scaled = inside[kept] * np.float32(scale)
    center = scaled_size[0] // 2, scaled_size[1] // 2
    if rng is not None:
        box = None if reference is None else scaled[reference]
        center = draw_center(scaled_size, input_size, box, settings.centered, rng)

    image, visible = resized_crop(image, scaled_size, center, input_size)
    clipped = _into_crop(scaled, center, input_size, visible)
    inside_crop = transforms.has_area(clipped)
    kept, clipped = kept[inside_crop], clipped[inside_crop]
    overlap = _area(clipped) / _area(boxes[kept] * np.float32(scale))
    color, lighting = settings.color, settings.lighting
    sample = finish_sample(image, clipped, labels[kept], rng, color=color, lighting=lighting)
    sides = sample.boxes[:, 2:].astype(int) - sample.boxes[:, :2].astype(int)
    usable = (overlap > _MIN_OVERLAP) & (sides.max(1, initial=0) >= min_side)
    return replace(sample, usable=usable)


def draw_scale(
    boxes: np.ndarray,
    scales: Sequence[float],
    ranges: Sequence[tuple[int, int]],
    min_side: int,
    input_size: Size,
    rng: np.random.Generator,
) -> tuple[float, int | None]:
    """Draws the scale of an image, so that one object gets a side in the range of its own side.

    Args:
        boxes: float32 [n, 4] with a width and a height.
        scales, ranges, min_side, input_size: settings of :func:`sample_saccade`.
        rng: draws two numbers, or one if there is no object.

    Returns:
        The scale, and the number of the object or None if there is none.
    """
    if not len(boxes):
        return scales[int(rng.integers(len(scales)))], None
    reference = int(rng.integers(len(boxes)))
    side = float((boxes[reference, 2:] - boxes[reference, :2]).max())
    low, high = next((limits for limits in ranges if side > limits[0]), ranges[-1])
    wanted = int(rng.integers(max(low, min_side), min(high, min(input_size) - 1) + 1))
    return wanted / side, reference


def draw_center(
    scaled_size: Size,
    input_size: Size,
    box: np.ndarray | None,
    centered: bool,
    rng: np.random.Generator,
) -> tuple[int, int]:
    """Draws the centre of a crop that shows an object, whole if it fits.

    Args:
        scaled_size: height and width of the resized image; a side that fits is shown whole.
        input_size: height and width of the crop.
        box: float32 [4], the object; None for any crop inside the image.
        centered: setting of :func:`sample_saccade`.
        rng: draws one number if ``centered``, and for each side that does not fit one number, or
            three for an object in the middle.

    Returns:
        (y, x) in pixels of the resized image.
    """
    middle = centered and rng.random() < 0.5 and box is not None
    center = [0, 0]
    for axis in (1, 0):  # x first
        whole, view = scaled_size[axis], input_size[axis]
        low, high = (0.0, 0.0) if box is None else (float(box[1 - axis]), float(box[3 - axis]))
        if whole <= view:
            center[axis] = whole // 2
        elif middle:
            point = (low + high) // 2
            first = max(point - rng.integers(0, _JITTER), 0)
            last = min(point + rng.integers(0, _JITTER), whole - 1)
            center[axis] = int(rng.integers(int(first), int(last) + 1))
        else:
            limits = [0, whole - view]
            if box is not None:  # an object longer than the crop is shown in part
                limits = sorted((int(max(high - view, 0)), int(min(whole - view, low))))
            center[axis] = int(rng.integers(limits[0], limits[1] + 1)) + view // 2
    return center[0], center[1]


def resized_crop(
    image: np.ndarray, scaled_size: Size, center: tuple[int, int], size: Size
) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Crops a resized image as :func:`transforms.crop` does, without resizing the rest of it.

    Args:
        image: uint8 [h, w, 3].
        scaled_size: height and width of the resized image.
        center: (y, x) of the crop in the resized image.
        size: height and width of the crop.

    Returns:
        The crop, uint8 [*size, 3], black outside the image, and its part that shows the image,
        (x0, y0, x1, y1).
    """
    taps, place = [], []
    for side, scaled, point, length in zip(image.shape, scaled_size, center, size, strict=False):
        half = length // 2
        start, stop = max(point - half, 0), min(point + half, scaled)
        taps.append(linear_taps(np.arange(start, stop), side, scaled))
        place.append((half - point + start, half - point + stop))
    (top, bottom), (left, right) = place
    window = np.zeros((*size, 3), np.uint8)
    window[top:bottom, left:right] = _lerp_rows_and_columns(image, *taps) + np.float32(0.5)
    return window, (left, top, right, bottom)


def _into_crop(
    boxes: np.ndarray, center: tuple[int, int], size: Size, visible: tuple[int, int, int, int]
) -> np.ndarray:
    """Moves boxes [n, 4] of a resized image into a crop and clips them to its visible part."""
    offset = np.array([center[1] - size[1] // 2, center[0] - size[0] // 2] * 2, np.float32)
    left, top, right, bottom = visible
    return np.clip(boxes - offset, [left, top] * 2, [right - 1, bottom - 1] * 2).astype(np.float32)


def _lerp_rows_and_columns(
    image: np.ndarray,
    rows: tuple[np.ndarray, np.ndarray, np.ndarray],
    columns: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> np.ndarray:
    """Interpolates uint8 [h, w, 3] at :func:`linear_taps`: float32 [rows, columns, 3]."""
    first, second, weight = columns
    low = first[0]
    image = image[:, low : second[-1] + 1]
    upper = image[rows[0]].astype(np.float32)
    upper += (image[rows[1]] - upper) * rows[2][:, None, None]
    result = upper[:, first - low]
    result += (upper[:, second - low] - result) * weight[:, None]
    return result


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
