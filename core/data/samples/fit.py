"""Training samples that show the whole image, zoomed, shifted and flipped (``db.sampling`` "fit").

Everything is one affine map of points ``(x, y)`` in pixels, counted from the image's edges: the
middle of its first pixel is (0.5, 0.5). It is float64 [2, 3], and maps a point p to
``map[:, :2] @ p + map[:, 2]``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np

from ...config.schema import Db
from ...structures import Sample
from .. import transforms
from ..transforms import Size
from . import CropSettings, Labelled, SampleFunction, sample_unchanged

_INSIDE = np.float32(0.001)  # pixels; the result's right and lower edges lie in its last cells


class Placed(NamedTuple):
    """An image with its place in a plane, of which a sample shows a part.

    Attributes:
        part: image, boxes and labels.
        map_: map from points of the image to those of the plane.
        window: [1, 4], the part of the plane in which the image shows.
    """

    part: Labelled
    map_: np.ndarray
    window: np.ndarray


@dataclass(frozen=True)
class FitSettings:
    """Settings of samples that show the whole image.

    Attributes:
        input_size: height and width of the result, in pixels.
        zoom: lowest and highest scale, relative to the one at which the image fits.
        shift: largest distance of the image's middle from that of the result, as a fraction of
            the result's sides.
        min_visible: fraction of a box's area that must lie in the result; others are dropped.
        vertical_flip: turn every second image upside down.
        quarter_turns: turn images by 0, 90, 180 or 270 degrees.
        color: change brightness, contrast and saturation.
        lighting: with ``color``, add PCA lighting too.
    """

    input_size: Size
    zoom: tuple[float, float]
    shift: float
    min_visible: float
    vertical_flip: bool
    quarter_turns: bool
    color: bool
    lighting: bool

    @classmethod
    def of(cls, db: Db) -> "FitSettings":
        """Takes the settings from a config's ``db`` section."""
        return cls(
            input_size=db.input_size,
            zoom=db.zoom,
            shift=db.shift,
            min_visible=db.min_visible,
            vertical_flip=db.vertical_flip,
            quarter_turns=db.quarter_turns,
            color=db.rand_color,
            lighting=db.lighting,
        )


def choose_sample(db: Db, crop: Callable[..., Sample]) -> SampleFunction:
    """Makes the sample function that a config's ``db`` section describes.

    Args:
        db: the section.
        crop: samples random crops, with :class:`CropSettings`.
    """
    sample: SampleFunction
    if db.sampling == "fit":
        sample = partial(sample_fit, settings=FitSettings.of(db))
    else:
        sample = partial(crop, settings=CropSettings.of(db))
    return sample if db.data_aug else partial(sample_unchanged, sample)


def sample_fit(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator | None,
    settings: FitSettings,
    others: Sequence[Labelled] = (),
) -> Sample:
    """Scales a whole image into the input size, zooms, shifts, flips and turns it, draws colours.

    Args:
        image: uint8 [h, w, 3], BGR.
        boxes: float32 [n, 4], pixels of ``image``.
        labels: int64 [n].
        rng: draws everything; None: the whole image as large as fits, laid out as at test time.
        settings: what is drawn.
        others: three images for a mosaic with ``image``, or none.

    Returns:
        The sample. Boxes are clipped to it, or in a mosaic to the visible part of their image, and
        dropped if too little of them is left.
    """
    size = settings.input_size
    if rng is None:
        result, map_ = lay_out(image, size)
        whole = map_boxes(boxes, map_)
        clipped = transforms.clip_to_edges(whole, size)
    else:
        placed = [Placed((image, boxes, labels), np.eye(2, 3), whole_image(image))]
        if others:
            placed = draw_mosaic([(image, boxes, labels), *others], size, rng)
        view = draw_map(size if others else image.shape[:2], settings, rng)
        result, whole, clipped, labels = draw_placed(placed, view, size)
    kept = transforms.is_visible(clipped, whole, settings.min_visible)
    clipped = np.minimum(clipped, np.array([size[1], size[0]] * 2, np.float32) - _INSIDE)
    kept &= transforms.has_area(clipped)
    color, lighting = settings.color, settings.lighting
    return transforms.colored_sample(
        result, clipped[kept], labels[kept], rng, color=color, lighting=lighting
    )


def lay_out(image: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Lays out an image uint8 [h, w, 3] as at test time: uint8 [*size, 3], and the map to it."""
    fitted = transforms.fitted_size(image.shape[:2], size)
    result, (top, left) = transforms.center_in(transforms.resize_smoothly(image, fitted), size)
    zoom_y, zoom_x = fitted[0] / image.shape[0], fitted[1] / image.shape[1]
    return result, np.array([[zoom_x, 0, left], [0, zoom_y, top]])


def draw_map(size: Size, settings: FitSettings, rng: np.random.Generator) -> np.ndarray:
    """Draws how an image goes into a sample.

    Args:
        size: height and width of the image.
        settings: what is drawn.
        rng: draws four numbers, and one each for ``vertical_flip`` and ``quarter_turns``.

    Returns:
        float64 [2, 3], from points of the image to points of the sample.
    """
    view = settings.input_size
    turns = int(rng.integers(4)) if settings.quarter_turns else 0
    turned = size[::-1] if turns % 2 else size
    zoom = np.exp(rng.uniform(*np.log(settings.zoom)))
    zoom *= min(view[0] / turned[0], view[1] / turned[1])
    shift = rng.uniform(-settings.shift, settings.shift, 2)
    map_ = np.zeros((2, 3))
    map_[:, :2] = zoom * np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), turns)
    middle, view_sides = np.array(size[::-1]) / 2, np.array(view[::-1])
    map_[:, 2] = view_sides * (0.5 + shift) - map_[:, :2] @ middle
    if rng.random() < 0.5:
        mirror_(map_[0], view[1])
    if settings.vertical_flip and rng.random() < 0.5:
        mirror_(map_[1], view[0])
    return map_


def mirror_(row: np.ndarray, side: int) -> None:
    """Mirrors one coordinate of a map's result in place: c becomes ``side - c``.

    Args:
        row: float64 [3], the map's row for the coordinate.
        side: length of the result along it.
    """
    row *= -1
    row[2] += side


def draw_mosaic(parts: Sequence[Labelled], size: Size, rng: np.random.Generator) -> list[Placed]:
    """Places four images around a point, each scaled as if it were to fit alone.

    Of an image that is larger than its quarter any part may show; a smaller one lies at the point.

    Args:
        parts: four images with their boxes and labels, row by row.
        size: height and width of the mosaic.
        rng: draws the point, in the middle half of each side, and the part of each image.
    """
    point = np.array(size) * rng.uniform(0.25, 0.75, 2)
    placed = []
    for number, part in enumerate(parts):
        sides = part[0].shape[:2]
        zoom = min(size[0] / sides[0], size[1] / sides[1])
        starts, stops, origins = [], [], []
        for axis, after in enumerate(divmod(number, 2)):
            start, stop = (point[axis], size[axis]) if after else (0.0, point[axis])
            free = zoom * sides[axis] - (stop - start)
            at_point = start if after else stop - zoom * sides[axis]
            origins.append(start - rng.uniform(0, free) if free > 0 else at_point)
            starts.append(start)
            stops.append(stop)
        map_ = np.array([[zoom, 0, origins[1]], [0, zoom, origins[0]]])
        placed.append(Placed(part, map_, np.array([[*starts[::-1], *stops[::-1]]])))
    return placed


def draw_placed(
    placed: Sequence[Placed], view: np.ndarray, size: Size
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draws images, seen through a map, and moves their boxes along.

    Args:
        placed: the images, none of which covers another.
        view: map from the plane of ``placed`` to the result.
        size: height and width of the result.

    Returns:
        The result uint8 [*size, 3], black where no image is; boxes float32 [n, 4] of all images,
        whole; the same, clipped to the result and to the windows; labels int64 [n].
    """
    result = np.zeros((*size, 3), np.uint8)
    whole, clipped, labels = [], [], []
    for (image, boxes, own_labels), map_, window in placed:
        map_ = combine(view, map_)
        limits = transforms.clip_to_edges(map_boxes(window, view), size)
        paint_(result, image, map_, limits[0])
        whole.append(map_boxes(boxes, map_))
        clipped.append(np.clip(whole[-1], np.tile(limits[:, :2], 2), np.tile(limits[:, 2:], 2)))
        labels.append(own_labels)
    return result, np.concatenate(whole), np.concatenate(clipped), np.concatenate(labels)


def paint_(result: np.ndarray, image: np.ndarray, map_: np.ndarray, window: np.ndarray) -> None:
    """Applies a map to an image, bilinearly, and writes what lies in a window into the result.

    A map that only resizes gives what :func:`transforms.resize_smoothly` gives, to the rounding.

    Args:
        result: uint8 [H, W, 3], changed in place where the middle of a pixel lies in the window
            and in the image.
        image: uint8 [h, w, 3].
        map_: float64 [2, 3], with its axes along those of the image.
        window: float [4], part of the result.
    """
    height, width = image.shape[:2]
    seen = map_boxes(whole_image(image), map_)[0]
    seen = np.clip(seen, np.tile(window[:2], 2), np.tile(window[2:], 2))
    left, top, right, bottom = np.ceil(seen - 0.5).astype(int)
    if right <= left or bottom <= top:
        return
    reduced = transforms.reduce_before(image, float(abs(np.linalg.det(map_[:, :2])) ** 0.5))
    matrix = map_.copy()
    matrix[:, 0] *= width / reduced.shape[1]
    matrix[:, 1] *= height / reduced.shape[0]
    # OpenCV counts from the middle of the first pixel, here of the first one that is seen.
    matrix[:, 2] += matrix[:, :2].sum(1) / 2 - 0.5 - np.array([left, top])
    result[top:bottom, left:right] = cv2.warpAffine(
        reduced,
        matrix,
        (right - left, bottom - top),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )


def whole_image(image: np.ndarray) -> np.ndarray:
    """Returns an image's edges as a box: [1, 4]."""
    return np.array([[0, 0, image.shape[1], image.shape[0]]])


def combine(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Computes the map that applies ``inner``, and then ``outer``: float64 [2, 3]."""
    combined = outer[:, :2] @ inner
    combined[:, 2] += outer[:, 2]
    return combined


def map_boxes(boxes: np.ndarray, map_: np.ndarray) -> np.ndarray:
    """Applies a map to boxes [n, 4]: float32 [n, 4]."""
    corners = boxes.reshape(-1, 2, 2) @ map_[:, :2].T + map_[:, 2]  # [n, 2, 2]
    return np.concatenate([corners.min(1), corners.max(1)], 1).astype(np.float32)
