"""Soft-NMS in NumPy: the fallback without a binary, and the tests' oracle.

All classes take each step together: they are the lines of an array, padded to the largest class.
"""

import numpy as np

HARD, LINEAR, GAUSSIAN = range(3)  # numbers of the methods in the operator's schema

SCORE = 4  # column of the score; the corner scores follow it


def soft_nms(
    detections: np.ndarray,
    labels: np.ndarray,
    method: int,
    nms_threshold: float,
    sigma: float,
    score_threshold: float,
    weight_exp: float | None,
    swap_scores: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Soft-NMS of arrays: :func:`cpools_ext.soft_nms.soft_nms` with the method's number."""
    order = np.argsort(labels, kind="stable")
    classes, counts = np.unique(labels, return_counts=True)
    line = np.repeat(np.arange(len(classes)), counts)
    place = np.arange(len(labels)) - np.repeat(counts.cumsum() - counts, counts)
    grid = np.zeros((len(classes), counts.max(initial=0), 7), np.float32)
    grid[line, place] = detections[order]
    kept = counts.copy()
    for first in range(grid.shape[1]):
        live = np.flatnonzero(kept > first)
        if len(live) == 0:
            break
        end = kept[live].max()
        rows, others = grid[live, first:end], kept[live] - first - 1
        _select_best_(rows, others, swap_scores)
        iou = np.where(np.arange(end - first - 1) < others[:, None], _iou(rows), 0)
        factor = _factor(iou, method, nms_threshold, sigma)
        scale = None if weight_exp is None else np.where(iou > 0, (1 - factor) ** weight_exp, 0)
        dropped = (iou > 0) & (rows[:, 1:, SCORE] * factor < score_threshold)
        left = _lower_(rows, others, factor, dropped, scale, swap_scores)
        grid[live, first:end], kept[live] = rows, first + 1 + left
    return grid[line, place], labels[order], place < kept[line]


def _select_best_(rows: np.ndarray, others: np.ndarray, swap_scores: bool) -> None:
    """Swaps the best of the first ``1 + others`` [c] rows of each class to the front, [c, n, 7]."""
    moving = _moving(swap_scores)
    present = np.arange(rows.shape[1]) <= others[:, None]
    best = np.where(present, rows[..., SCORE], -np.inf).argmax(1)
    line = np.arange(len(rows))
    selected = rows[line, best, :moving]
    rows[line, best, :moving] = rows[:, 0, :moving]
    rows[:, 0, :moving] = selected


def _moving(swap_scores: bool) -> int:
    """Number of columns, counted from the first, that change rows together."""
    return 7 if swap_scores else SCORE + 1


def _iou(rows: np.ndarray) -> np.ndarray:
    """IoU, float32 [c, n - 1], of the first box of [c, n, 7] with the others; widths with + 1."""
    low, high = rows[..., :2], rows[..., 2:4]
    inner = np.minimum(high[:, :1], high[:, 1:]) - np.maximum(low[:, :1], low[:, 1:]) + 1
    overlap = inner.clip(0).prod(2)
    areas = (high - low + 1).prod(2)
    return overlap / (areas[:, :1] + areas[:, 1:] - overlap)


def _factor(iou: np.ndarray, method: int, nms_threshold: float, sigma: float) -> np.ndarray:
    """Factors of the boxes' scores, float32 of the shape of ``iou``."""
    if method == GAUSSIAN:
        return np.exp(-np.square(iou) / sigma)
    lowered = 1 - iou if method == LINEAR else np.float32(0)
    return np.where(iou > nms_threshold, lowered, np.float32(1))


def _lower_(
    rows: np.ndarray,
    others: np.ndarray,
    factor: np.ndarray,
    dropped: np.ndarray,
    scale: np.ndarray | None,
    swap_scores: bool,
) -> np.ndarray:
    """Lowers scores, fills the gaps of dropped rows, and merges the first box with the others.

    Args:
        rows: float32 [c, n, 7], the selected row of each class first.
        others: int64 [c], number of active rows after the selected one.
        factor: float32 [c, n - 1], factors of their scores.
        dropped: bool [c, n - 1], True for rows whose lowered score is too low to keep.
        scale: float32 [c, n - 1], factors of their weights in merging; None without merging.
        swap_scores: True: the corner scores move with their box.

    Returns:
        int64 [c], number of active rows after the selected one that are left.
    """
    moving, left = _moving(swap_scores), others.copy()
    lowered = rows[:, 1:].copy()
    lowered[..., SCORE] *= factor
    corner_scores = rows[..., SCORE + 1 :].copy()
    for line in np.flatnonzero(dropped.any(1)):
        source, place, left[line] = _fill_gaps(dropped[line, : others[line]])
        moved = lowered[line, source, :moving]
        lowered[line] = rows[line, 1:]
        lowered[line, : len(source), :moving] = moved
        if not swap_scores:
            corner_scores[line, 1 : 1 + len(place)] = rows[line, 1 + place, SCORE + 1 :]
    if scale is not None:
        _merge_(rows, corner_scores, scale)
    rows[:, 1:] = lowered
    return left


def _fill_gaps(dropped: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Order of the rows after boxes are dropped one by one; the last active box fills each gap.

    The box that fills a gap is visited there, and may be dropped in its turn.

    Args:
        dropped: bool [n], True for the rows to drop.

    Returns:
        source: int64 [m], the row that was visited last in each visited place; m is one more than
            ``kept`` if the last row visited was dropped.
        place: int64 [n], the place where each row was visited.
        kept: number of rows left.
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


def _merge_(rows: np.ndarray, corner_scores: np.ndarray, scale: np.ndarray) -> None:
    """Moves the corners of each first box to the average of its own and the other boxes'.

    Args:
        rows: float32 [c, n, 7], rows of c classes.
        corner_scores: float32 [c, n, 2], weights of the corners.
        scale: float32 [c, n - 1], factors of the weights of the other boxes.
    """
    for corner in (0, 1):
        sides = slice(2 * corner, 2 * corner + 2)
        weights = corner_scores[..., corner].copy()  # [c, n]
        weights[:, 1:] *= scale
        total = weights.sum(1, keepdims=True)
        sums = (weights[..., None] * rows[..., sides]).sum(1)  # [c, 2]
        np.divide(sums, total, out=rows[:, 0, sides], where=total > 0)
