"""Inference with detectors of corners (CornerNet, section 4.2 and the multi-scale test of 4.3).

Every scale of the image, and its mirror image, goes through the network; the detections are
converted to pixels of the image and suppressed together, class by class.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.transforms import Size
from ..decode.corners import REJECTED
from ..decode.soft_nms import SCORE, Method, best_detections, suppress
from .canvas import center_in, fit_in_canvas, resize_by
from .requests import CanvasRequest, Inference


@dataclass(frozen=True)
class View:
    """An image as the network sees it: resized, in the middle of black borders.

    Attributes:
        canvas: uint8 [H, W, 3], of sides which the hourglass can halve and double again.
        corner: (y, x) of the resized image in the canvas.
        size: height and width of the resized image.
        scale: height and width of the resized image as multiples of the image's.
    """

    canvas: np.ndarray
    corner: tuple[int, int]
    size: Size
    scale: tuple[float, float]


@dataclass(frozen=True)
class CornerSettings:
    """Settings of inference with a detector of corners.

    Attributes:
        test_scales: sizes at which the image is tested, relative to its own, or with ``fit_size``
            to the one at which it fits.
        test_flipped: test the mirror image too.
        nms_algorithm, nms_threshold, merge_bbox, weight_exp: as for
            :func:`core.decode.soft_nms.suppress`.
        max_per_image: detections to keep; more where the last ones have equal scores.
        reference_scoring: keep what the reference keeps: the rows that its soft-NMS leaves behind,
            and corner scores that stay in place when its merging swaps rows.
        stride: input pixels per output cell.
        fit_size: height and width of the training images, if images are trained as they fit into
            it; None: images are tested at their own size.
        coarsest_stride: input pixels per cell of the network's coarsest map; for ``fit_size``.
    """

    test_scales: Sequence[float]
    test_flipped: bool
    nms_algorithm: Method
    nms_threshold: float
    merge_bbox: bool
    weight_exp: float
    max_per_image: int
    reference_scoring: bool
    stride: int
    fit_size: Size | None = None
    coarsest_stride: int = 128


def detect_corners(
    image: np.ndarray, trace: list[Any] | None = None, *, settings: CornerSettings
) -> Inference:
    """Finds the objects of one image.

    Args:
        image: uint8 [h, w, 3], BGR.
        trace: not used.
        settings: scales, mirroring, suppression.

    Yields:
        The image at each scale. It is sent decoded detections float32 [1, n, 8], or [2, n, 8] with
        those of the mirror image, in output cells: box, score, score of the top-left and of the
        bottom-right corner, class.

    Returns:
        Detections in pixels of ``image``, within ``[0, w] x [0, h]``.
    """
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3, image.shape
    passes = []
    for scale in settings.test_scales:
        view = lay_out(image, scale, settings.fit_size, settings.coarsest_stride)
        decoded = yield CanvasRequest(view.canvas, settings.test_flipped)
        passes.append(rows_in_image(decoded.numpy().copy(), view, settings.stride))
    found = np.concatenate(passes)
    found = found[found[:, SCORE] > REJECTED]
    rows, labels = suppress(
        found[:, :7],
        found[:, 7].astype(np.int64),
        method=settings.nms_algorithm,
        nms_threshold=settings.nms_threshold,
        merge=settings.merge_bbox,
        weight_exp=settings.weight_exp,
        keep_stale=settings.reference_scoring,
        swap_scores=not settings.reference_scoring,
    )
    return best_detections(rows, labels, settings.max_per_image)


def lay_out(
    image: np.ndarray, scale: float, fit_size: Size | None = None, coarsest_stride: int = 128
) -> View:
    """Resizes an image and pads it.

    Args:
        image: uint8 [h, w, 3].
        scale, fit_size, coarsest_stride: as in :class:`CornerSettings`. Without ``fit_size`` each
            side of the canvas is the resized one's ``n | 127``, as published.
    """
    if fit_size is not None:
        canvas, corner, size = fit_in_canvas(image, scale, fit_size, coarsest_stride)
        return View(canvas, corner, size, (size[0] / image.shape[0], size[1] / image.shape[1]))
    image = resize_by(image, scale)
    height, width = image.shape[:2]
    canvas, corner = center_in(image, (height | 127, width | 127))
    return View(canvas, corner, (height, width), (scale, scale))


def rows_in_image(decoded: np.ndarray, view: View, stride: int) -> np.ndarray:
    """Converts decoded detections from cells of a view to pixels of the image.

    Args:
        decoded: float32 [B, n, 8], of the view, and with B = 2 of its mirror image; overwritten.
        view: the view.
        stride: input pixels per output cell.

    Returns:
        float32 [B * n, 8], boxes in pixels of the image.
    """
    in_height, in_width = view.canvas.shape[:2]
    out_height, out_width = -(-in_height // stride), -(-in_width // stride)
    decoded[1:, :, [0, 2]] = out_width - decoded[1:, :, [2, 0]]
    rows = decoded.reshape(-1, 8)
    for axis, ratio, border, side, scale in (
        ([0, 2], out_width / in_width, view.corner[1], view.size[1], view.scale[1]),
        ([1, 3], out_height / in_height, view.corner[0], view.size[0], view.scale[0]),
    ):
        rows[:, axis] = np.clip(rows[:, axis] / ratio - border, 0, side) / scale
    return rows
