"""Soft-NMS in NumPy: the fallback without a binary, and the tests' oracle.

All classes take each step at once: they lie side by side, padded to the largest of them.
"""

import numpy as np

HARD, LINEAR, GAUSSIAN = range(3)  # the methods' numbers

SCORE = 4  # column of the score; the corners' scores follow it


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
    """:func:`cpools_ext.soft_nms.soft_nms` with arrays and the method's number."""
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
        share = None if weight_exp is None else np.where(iou > 0, (1 - factor) ** weight_exp, 0)
        dropped = (iou > 0) & (rows[:, 1:, SCORE] * factor < score_threshold)
        left = _lower_(rows, others, factor, dropped, share, swap_scores)
        grid[live, first:end], kept[live] = rows, first + 1 + left
    return grid[line, place], labels[order], place < kept[line]


def _select_best_(rows: np.ndarray, others: np.ndarray, swap_scores: bool) -> None:
    """Swaps the best of the first row and the ``others`` [c] after it to the front of [c, n, 7]."""
    moving = _moving(swap_scores)
    present = np.arange(rows.shape[1]) <= others[:, None]
    best = np.where(present, rows[..., SCORE], -np.inf).argmax(1)
    line = np.arange(len(rows))
    selected = rows[line, best, :moving]
    rows[line, best, :moving] = rows[:, 0, :moving]
    rows[:, 0, :moving] = selected


def _moving(swap_scores: bool) -> int:
    """How many columns change places, counted from the first."""
    return 7 if swap_scores else SCORE + 1


def _iou(rows: np.ndarray) -> np.ndarray:
    """float32 [c, n - 1]: IoU of the first box of [c, n, 7] with the others; widths with + 1."""
    low, high = rows[..., :2], rows[..., 2:4]
    inner = np.minimum(high[:, :1], high[:, 1:]) - np.maximum(low[:, :1], low[:, 1:]) + 1
    overlap = inner.clip(0).prod(2)
    areas = (high - low + 1).prod(2)
    return overlap / (areas[:, :1] + areas[:, 1:] - overlap)


def _factor(iou: np.ndarray, method: int, nms_threshold: float, sigma: float) -> np.ndarray:
    """float32, as ``iou``: what the scores of boxes are multiplied by."""
    if method == GAUSSIAN:
        return np.exp(-np.square(iou) / sigma)
    lowered = 1 - iou if method == LINEAR else np.float32(0)
    return np.where(iou > nms_threshold, lowered, np.float32(1))


def _lower_(
    rows: np.ndarray,
    others: np.ndarray,
    factor: np.ndarray,
    dropped: np.ndarray,
    share: np.ndarray | None,
    swap_scores: bool,
) -> np.ndarray:
    """Lowers scores, fills the gaps of dropped rows, and merges the first box with the others.

    Args:
        rows: float32 [c, n, 7], the selected row of each class first.
        others: int64 [c], how many of the rows after it are at play.
        factor: float32 [c, n - 1], what their scores are multiplied by.
        dropped: bool [c, n - 1].
        share: float32 [c, n - 1], how much each counts in merging; None without merging.
        swap_scores: the corner scores move with their box.

    Returns:
        int64 [c], how many of the others are left.
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
    if share is not None:
        _merge_(rows, corner_scores, share)
    rows[:, 1:] = lowered
    return left


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


def _merge_(rows: np.ndarray, corner_scores: np.ndarray, share: np.ndarray) -> None:
    """Moves the corners of the first box of [c, n, 7] to the average of its own and the others'.

    Args:
        rows: float32 [c, n, 7].
        corner_scores: float32 [c, n, 2], their weights.
        share: float32 [c, n - 1], what the weights of the others are multiplied by.
    """
    for corner in (0, 1):
        sides = slice(2 * corner, 2 * corner + 2)
        weights = corner_scores[..., corner].copy()  # [c, n]
        weights[:, 1:] *= share
        total = weights.sum(1, keepdims=True)
        sums = (weights[..., None] * rows[..., sides]).sum(1)  # [c, 2]
        np.divide(sums, total, out=rows[:, 0, sides], where=total > 0)
