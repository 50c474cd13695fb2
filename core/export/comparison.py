"""How much the detections of two detectors differ, and how long each of them takes."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..structures import Detections

LOWEST_SCORE = 0.05  # of the detections that are compared
_SAME = 1.0  # pixels and hundredths of a score that two detections of one object differ by at most


class Differences(NamedTuple):
    """Differences of two detectors.

    Attributes:
        compared: number of detections of both that were compared.
        missing: number of these that the other one lacks.
        boxes: largest difference of a coordinate, in pixels.
        scores: largest difference of a score.
    """

    compared: int
    missing: int
    boxes: float
    scores: float


def compare(one: Sequence[Detections], other: Sequence[Detections]) -> Differences:
    """Compares detections of the same images, each with the nearest one of its class.

    Args:
        one, other: what either detector found in each image.
    """
    boxes, scores = [np.zeros(0)], [np.zeros(0)]
    for found, others in zip([*one, *other], [*other, *one], strict=True):
        box, score = _nearest(found, others)
        boxes.append(box)
        scores.append(score)
    box, score = np.concatenate(boxes), np.concatenate(scores)
    same = np.maximum(box, 100 * score) <= _SAME
    return Differences(
        len(same),
        int((~same).sum()),
        float(box[same].max(initial=0)),
        float(score[same].max(initial=0)),
    )


def _nearest(found: Detections, others: Detections) -> tuple[np.ndarray, np.ndarray]:
    """Largest difference of a coordinate, and that of the scores, from the most similar detection.

    Returns:
        Two arrays [n], of the detections with a score of :data:`LOWEST_SCORE` or more; infinite if
        the others have none of the class.
    """
    kept = found.scores >= LOWEST_SCORE
    rows, columns = found.boxes[kept, None], others.boxes[None]  # [n, 1, 4], [1, m, 4]
    box = np.abs(rows - columns).max(2, initial=0).astype(np.float64)
    score = np.abs(found.scores[kept, None] - others.scores).astype(np.float64)
    differs = found.labels[kept, None] != others.labels
    box[differs] = score[differs] = np.inf
    box, score = (np.pad(part, ((0, 0), (0, 1)), constant_values=np.inf) for part in (box, score))
    nearest = np.maximum(box, 100 * score).argmin(1)
    each = np.arange(len(nearest))
    return box[each, nearest], score[each, nearest]


def median_times(runs: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Measures functions in turn, so that what else runs on the machine slows all of them.

    Args:
        runs: functions without arguments; each runs once more, before the clock starts.
        rounds: number of measurements of each.

    Returns:
        The median seconds of each.
    """
    times: list[list[float]] = [[] for _ in runs]
    for number in range(rounds + 1):
        for run, seconds in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            if number > 0:
                seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]
