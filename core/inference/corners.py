"""Inference with detectors of corners (CornerNet, section 4.2 and the multi-scale test of 4.3).

Every scale of the picture, and its mirror image, goes through the network; the detections come back
to the picture's pixels and are suppressed together, class by class.
"""

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from ..decode.corners import REJECTED
from ..decode.soft_nms import SCORE, Method, best_detections, suppress
from ..structures import Detections
from .canvas import center_in, normalize, resize_by


def detect_corners(
    image: np.ndarray,
    predict: Callable[[Tensor], Tensor],
    *,
    test_scales: Sequence[float],
    test_flipped: bool,
    nms_algorithm: Method,
    nms_threshold: float,
    merge_bbox: bool,
    weight_exp: float,
    max_per_image: int,
    reference_scoring: bool,
    stride: int,
) -> Detections:
    """Finds the objects of one picture.

    Args:
        image: uint8 [h, w, 3], BGR.
        predict: takes normalised images float32 [B, 3, H, W] (on the CPU) and gives decoded
            detections [B, n, 8] in output cells: box, score, score of the top-left and of the
            bottom-right corner, class.
        test_scales: sizes at which the picture is looked at, relative to its own.
        test_flipped: look at the mirror image too.
        nms_algorithm, nms_threshold, merge_bbox, weight_exp: see
            :func:`core.decode.soft_nms.suppress`.
        max_per_image: detections to keep; more where the last ones have equal scores.
        reference_scoring: keep what the reference keeps: the rows that its soft-NMS leaves behind,
            and corner scores that stay in place when its merging swaps rows.
        stride: input pixels an output cell.

    Returns:
        Detections in pixels of ``image``, within ``[0, w] x [0, h]``.
    """
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3, image.shape
    found = np.concatenate(
        [_detect_at(image, predict, scale, test_flipped, stride) for scale in test_scales]
    )
    found = found[found[:, SCORE] > REJECTED]
    rows, labels = suppress(
        found[:, :7],
        found[:, 7].astype(np.int64),
        method=nms_algorithm,
        nms_threshold=nms_threshold,
        merge=merge_bbox,
        weight_exp=weight_exp,
        keep_stale=reference_scoring,
        swap_scores=not reference_scoring,
    )
    return best_detections(rows, labels, max_per_image)


def place(image: np.ndarray, scale: float) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
    """Resizes a picture and puts it into the middle of black borders.

    Args:
        image: uint8 [h, w, 3].
        scale: new size as a multiple of the picture's.

    Returns:
        canvas: uint8 [H, W, 3]; each side is the resized one's ``n | 127``, which every hourglass
            can halve and double again.
        corner: (y, x) of the resized picture in the canvas.
        size: (height, width) of the resized picture.
    """
    image = resize_by(image, scale)
    height, width = image.shape[:2]
    canvas, corner = center_in(image, (height | 127, width | 127))
    return canvas, corner, (height, width)


def _detect_at(
    image: np.ndarray, predict: Callable[[Tensor], Tensor], scale: float, flipped: bool, stride: int
) -> np.ndarray:
    """float32 [n, 8]: what decoding finds at one scale, boxes in pixels of ``image``."""
    canvas, (top, left), (height, width) = place(image, scale)
    decoded = predict(normalize(canvas, flipped)).float().cpu().numpy().copy()  # [B, n, 8]
    in_height, in_width = canvas.shape[:2]
    out_height, out_width = (in_height + 1) // stride, (in_width + 1) // stride
    if flipped:
        decoded[1, :, [0, 2]] = out_width - decoded[1, :, [2, 0]]
    found = decoded.reshape(-1, 8)
    for axis, ratio, border, side in (
        ([0, 2], out_width / in_width, left, width),
        ([1, 3], out_height / in_height, top, height),
    ):
        found[:, axis] = np.clip(found[:, axis] / ratio - border, 0, side) / scale
    return found
