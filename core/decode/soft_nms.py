"""Non-maximum suppression of detections: hard, linear, Gaussian, and Gaussian-weighted merging.

The maths is the reference's, in float32: boxes are selected by score, one after the other, and
each lowers the scores of those it overlaps (Soft-NMS, section 3). Rows stand in the order in which
the reference's in-place run leaves them, so that its published figures can be reproduced.
"""

from typing import Literal

import numpy as np

Method = Literal["nms", "linear_soft_nms", "exp_soft_nms"]

SCORE = 4  # column of the score; the corners' scores follow it


def suppress(
    detections: np.ndarray,
    labels: np.ndarray,
    *,
    method: Method,
    nms_threshold: float,
    sigma: float = 0.5,
    merge: bool = False,
    weight_exp: float = 8,
    reference_scoring: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Suppresses the detections of a picture, each class by itself.

    Args:
        detections: float32 [n, 7]: box, score, score of the top-left and the bottom-right corner.
        labels: int64 [n].
        method, nms_threshold, sigma: see :func:`soft_nms`.
        merge, weight_exp: merge a selected box with those it overlaps, see :func:`soft_nms_merge`.
        reference_scoring: do as the reference does: keep the stale rows of suppressed detections,
            and merge with the corner scores that its swaps leave in place.

    Returns:
        rows: float32 [m, 7], classes ascending, in the order of selection within a class.
        labels: int64 [m].
    """
    all_rows, all_labels = [np.empty((0, 7), np.float32)], [np.empty(0, np.int64)]
    for label in np.unique(labels):
        rows, kept = _run(
            detections[labels == label],
            method,
            nms_threshold,
            sigma,
            weight_exp=weight_exp if merge else None,
            swap_scores=not reference_scoring,
        )
        rows = rows if reference_scoring else rows[:kept]
        all_rows.append(rows)
        all_labels.append(np.full(len(rows), label, np.int64))
    return np.concatenate(all_rows), np.concatenate(all_labels)


def keep_best(scores: np.ndarray, max_per_image: int) -> np.ndarray:
    """Cuts the detections of a picture to the best ones.

    Args:
        scores: [n].
        max_per_image: how many to keep; more where the last of them have equal scores.

    Returns:
        bool [n], which detections stay.
    """
    if len(scores) <= max_per_image:
        return np.ones(len(scores), bool)
    return scores >= np.partition(scores, -max_per_image)[-max_per_image]


def soft_nms(
    boxes: np.ndarray,
    *,
    method: Method,
    nms_threshold: float = 0.3,
    sigma: float = 0.5,
    score_threshold: float = 0.001,
) -> tuple[np.ndarray, int]:
    """Lowers the scores of boxes that overlap a better one (Soft-NMS, section 3, eq. 1 to 3).

    Widths count pixels, ``x1 - x0 + 1``. With an overlap IoU, the score of the lesser box is
    multiplied by 0 or 1 - IoU where IoU > nms_threshold (``nms``, ``linear_soft_nms``), or by
    ``exp(-IoU^2 / sigma)`` (``exp_soft_nms``).

    Args:
        boxes: float32 [n, 5 or more]: box, score, anything else.
        method: how scores are lowered.
        nms_threshold: IoU from which the first two methods act.
        sigma: of the third.
        score_threshold: a box whose score is lowered below it is dropped.

    Returns:
        rows: float32, as ``boxes``: the kept rows in the order of selection, then the stale rows of
            dropped boxes as the reference leaves them.
        kept: how many rows are kept.
    """
    return _run(boxes, method, nms_threshold, sigma, score_threshold)


def soft_nms_merge(
    boxes: np.ndarray,
    *,
    method: Method,
    nms_threshold: float = 0.3,
    sigma: float = 0.5,
    score_threshold: float = 0.001,
    weight_exp: float = 6,
    swap_scores: bool = True,
) -> tuple[np.ndarray, int]:
    """Soft-NMS in which a selected box becomes an average of itself and those it overlaps.

    The top-left corner is weighted by the top-left score and the bottom-right corner by the
    bottom-right one; an overlapping box whose score is multiplied by f has these weights times
    ``(1 - f)^weight_exp`` (the multi-scale test of CornerNet).

    Args:
        boxes: float32 [n, 7]: box, score, score of the top-left and of the bottom-right corner.
        method, nms_threshold, sigma, score_threshold: see :func:`soft_nms`.
        weight_exp: the higher, the less a box that overlaps little counts.
        swap_scores: every box keeps its own corner scores. False: they stay in their row when boxes
            change places, as in the reference.

    Returns:
        As :func:`soft_nms`.
    """
    return _run(boxes, method, nms_threshold, sigma, score_threshold, weight_exp, swap_scores)


def _run(
    boxes: np.ndarray,
    method: Method,
    nms_threshold: float,
    sigma: float,
    score_threshold: float = 0.001,
    weight_exp: float | None = None,
    swap_scores: bool = True,
) -> tuple[np.ndarray, int]:
    """Soft-NMS; with merging where ``weight_exp`` is given."""
    rows = np.array(boxes, np.float32)
    moving = rows if swap_scores else rows[:, : SCORE + 1]  # what changes places
    first, active = 0, len(rows)
    while first < active:
        best = first + int(rows[first:active, SCORE].argmax())
        moving[[first, best]] = moving[[best, first]]
        others = rows[first + 1 : active]
        iou = _iou(rows[first], others)
        factor = _factor(iou, method, nms_threshold, sigma)
        lowered = others.copy()
        lowered[:, SCORE] *= factor
        dropped = (iou > 0) & (lowered[:, SCORE] < score_threshold)
        source, place, kept = _fill_gaps(dropped)
        if weight_exp is not None:
            if not swap_scores:
                lowered[:, SCORE + 1 :] = others[place, SCORE + 1 :]
            share = np.where(iou > 0, (1 - factor) ** weight_exp, 0)
            _merge_(rows[first], lowered, share)
        moving[first + 1 : first + 1 + len(source)] = lowered[source, : moving.shape[1]]
        first, active = first + 1, first + 1 + kept
    return rows, active


def _iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """float32 [n]: IoU of one box [4 or more] and others [n, 4 or more], widths with + 1."""
    inner = np.minimum(box[2:4], others[:, 2:4]) - np.maximum(box[:2], others[:, :2]) + 1
    overlap = inner.clip(0).prod(1)
    areas = (others[:, 2:4] - others[:, :2] + 1).prod(1)
    return overlap / ((box[2:4] - box[:2] + 1).prod() + areas - overlap)


def _factor(iou: np.ndarray, method: Method, nms_threshold: float, sigma: float) -> np.ndarray:
    """float32 [n]: what the scores of boxes are multiplied by."""
    if method == "exp_soft_nms":
        return np.exp(-np.square(iou) / sigma)
    lowered = 1 - iou if method == "linear_soft_nms" else np.float32(0)
    return np.where(iou > nms_threshold, lowered, np.float32(1))


def _fill_gaps(dropped: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The order that dropping boxes one by one leaves: the last active box fills the gap.

    The box that fills a gap is looked at there, and may be dropped in its turn.

    Args:
        dropped: bool [n].

    Returns:
        source: int64 [m], the row that was looked at last in each place that was looked at; one
            place more than are kept if the last box looked at was dropped.
        place: int64 [n], where each row was looked at.
        kept: how many rows are left.
    """
    source, place, kept = np.arange(len(dropped)), np.arange(len(dropped)), len(dropped)
    for gap in np.flatnonzero(dropped):
        if gap >= kept:
            break
        while dropped[source[gap]]:
            kept -= 1
            if kept == gap:
                return source[: kept + 1], place, kept
            source[gap], place[kept] = kept, gap
    return source[:kept], place, kept


def _merge_(box: np.ndarray, others: np.ndarray, share: np.ndarray) -> None:
    """Moves the corners of a box [7] to the average of its own and those of others [n, 7]."""
    for corner in (0, 1):
        sides, score = slice(2 * corner, 2 * corner + 2), SCORE + 1 + corner
        weight = others[:, score] * share
        total = box[score] + weight.sum()
        if total > 0:
            box[sides] = (box[score] * box[sides] + weight @ others[:, sides]) / total
