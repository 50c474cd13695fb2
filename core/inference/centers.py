"""Inference with CenterNet (arXiv:1904.07850, section 5): peaks are objects, nothing is paired.

The maps of the image and of its mirror image are averaged. If there are several test scales, their
detections are suppressed together, class by class.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..data.samples.centers import warp, whole_window
from ..data.transforms import Size, has_area
from ..decode.soft_nms import SCORE, Method, best_detections, suppress
from .canvas import center_in, fit_in_canvas, resize_by
from .requests import CanvasRequest, Inference


@dataclass(frozen=True)
class View:
    """An image as the network sees it.

    Attributes:
        canvas: uint8 [H, W, 3].
        scale: height and width of the resized image as multiples of the image's.
        center: (y, x), the point of the resized image in the canvas' middle.
        pixel: pixels of the resized image per pixel of the canvas.
        cells: height and width of the network's maps.
    """

    canvas: np.ndarray
    scale: tuple[float, float]
    center: tuple[float, float]
    pixel: float
    cells: Size


@dataclass(frozen=True)
class Geometry:
    """Layout of images for the network.

    Attributes:
        resolution: ``keep``: at their own size, padded; ``fix``: scaled into ``input_size``;
            ``fit``: scaled to the size that fits into it, and padded no further than needed.
        input_size: height and width of a canvas of fixed size, or of the training images.
        coarsest_stride: the sides of a padded canvas are multiples of it; a power of two.
        stride: pixels per cell of the network's maps.
    """

    resolution: Literal["keep", "fix", "fit"]
    input_size: Size
    coarsest_stride: int
    stride: int

    def view(self, image: np.ndarray, scale: float) -> View:
        """Lays out an image uint8 [h, w, 3] at ``scale``."""
        if self.resolution == "fit":
            return self._fitted_view(image, scale)
        resized = resize_by(image, scale)
        height, width = resized.shape[:2]
        if self.resolution == "keep":
            rest = self.coarsest_stride - 1
            canvas, _ = center_in(resized, ((height | rest) + 1, (width | rest) + 1))
            return self._view(canvas, (scale, scale), (height // 2, width // 2), 1)
        # The window is that of the image at scale 1; this makes scales differ in the result.
        window = whole_window(image.shape[:2], self.input_size)
        pixel, center = window[1] / self.input_size[1], (height / 2, width / 2)
        canvas = warp(resized, center, 1 / pixel, self.input_size)
        return self._view(canvas, (scale, scale), center, pixel)

    def _fitted_view(self, image: np.ndarray, scale: float) -> View:
        """Lays out an image as it is trained with ``db.sampling`` "fit"."""
        canvas, (top, left), size = fit_in_canvas(
            image, scale, self.input_size, self.coarsest_stride
        )
        center = canvas.shape[0] / 2 - top, canvas.shape[1] / 2 - left
        scales = size[0] / image.shape[0], size[1] / image.shape[1]
        return self._view(canvas, scales, center, 1)

    def _view(
        self,
        canvas: np.ndarray,
        scale: tuple[float, float],
        center: tuple[float, float],
        pixel: float,
    ) -> View:
        height, width = (-(-side // self.stride) for side in canvas.shape[:2])
        return View(canvas, scale, center, pixel, (height, width))


@dataclass(frozen=True)
class CenterSettings:
    """Settings of inference with CenterNet.

    Attributes:
        geometry: layout of the image.
        test_scales: sizes at which the image is tested, relative to its own.
        test_flipped: test the mirror image too.
        nms: suppress at one scale too; detections of several scales are always suppressed.
        nms_algorithm, nms_threshold: as for :func:`core.decode.soft_nms.suppress`.
        max_per_image: detections to keep; more where the last ones have equal scores.
        reference_scoring: keep what the reference keeps: the rows that its soft-NMS leaves behind,
            and boxes whose width or height is below 0.
    """

    geometry: Geometry
    test_scales: Sequence[float]
    test_flipped: bool
    nms: bool
    nms_algorithm: Method
    nms_threshold: float
    max_per_image: int
    reference_scoring: bool


def detect_centers(
    image: np.ndarray, trace: list[Any] | None = None, *, settings: CenterSettings
) -> Inference:
    """Finds the objects of one image.

    Args:
        image: uint8 [h, w, 3], BGR.
        trace: not used.
        settings: layout, scales, mirroring, suppression.

    Yields:
        The image at each scale. It is sent its row of the result of
        :func:`core.decode.centers.decode_images`, float32 [1, K, 6].

    Returns:
        Detections in pixels of ``image``; they may reach beyond it.
    """
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3, image.shape
    passes = []
    for scale in settings.test_scales:
        view = settings.geometry.view(image, scale)
        decoded = yield CanvasRequest(view.canvas, settings.test_flipped)
        rows = decoded[0].numpy()
        boxes = boxes_in_image(rows[:, :4], view)
        passes.append(np.concatenate((boxes, rows[:, 4:]), 1))
    found = np.concatenate(passes)
    found = found[found[:, SCORE] > 0]
    if not settings.reference_scoring:
        found = found[has_area(found)]
    rows, labels = found[:, : SCORE + 1], found[:, SCORE + 1].astype(np.int64)
    if settings.nms or len(settings.test_scales) > 1:
        rows, labels = suppress(
            np.pad(rows, ((0, 0), (0, 2))),  # there are no scores of corners
            labels,
            method=settings.nms_algorithm,
            nms_threshold=settings.nms_threshold,
            keep_stale=settings.reference_scoring,
        )
    return best_detections(rows, labels, settings.max_per_image)


def boxes_in_image(boxes: np.ndarray, view: View) -> np.ndarray:
    """Converts boxes float32 [n, 4] from cells of a view to pixels of the image."""
    cells, canvas = np.array(view.cells), np.array(view.canvas.shape[:2])
    cell = _xyxy(canvas / cells * view.pixel)  # in pixels of the resized image
    return ((boxes - _xyxy(cells / 2)) * cell + _xyxy(view.center)) / _xyxy(view.scale)


def _xyxy(yx: Sequence[float] | np.ndarray) -> np.ndarray:
    """Repeats (y, x) as a box does, (x, y, x, y): float32 [4]."""
    return np.array([yx[1], yx[0]] * 2, np.float32)
