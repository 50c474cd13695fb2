"""Numbers of a report: curves, the threshold of best F1, confusions, and recall by size.

All of them come from detections and objects that :mod:`core.evaluation.matching` matched.
"""

from dataclasses import dataclass

import numpy as np

from .matching import Matched, by_image, match_image, overlaps_of

RECALLS = np.linspace(0, 1, 101)  # at which COCO takes the precision
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}
BINS = 40  # of a histogram of scores


@dataclass(frozen=True)
class Choice:
    """A threshold of the score, and what detections of at least that score reach.

    Attributes:
        threshold: the score, 0 to 1.
        precision, recall, f1: 0 to 1.
        right, detections: number of detections that found an object, and of all.
    """

    threshold: float
    precision: float
    recall: float
    f1: float
    right: int
    detections: int


@dataclass(frozen=True)
class ClassCurves:
    """What the scores of a class, or of all classes, say.

    Attributes:
        objects: number of objects; crowds are not counted.
        precision: float64 [101] at each of :data:`RECALLS`, by IoU; the mean over the classes that
            have objects. NaN if there is no object.
        right, wrong: int64 [BINS], number of detections by score from 0 to 1.
        best: the threshold with the highest F1; None without a right detection.
        recall: part of the objects that any detection found, whatever its score; None if there is
            no object.
    """

    objects: int
    precision: dict[float, np.ndarray]
    right: np.ndarray
    wrong: np.ndarray
    best: Choice | None
    recall: float | None


@dataclass(frozen=True)
class SizeBucket:
    """Objects of one of :data:`SIZES`: their number, and how many were found at an IoU of 0.5."""

    objects: int
    found: int


def precision_at_recalls(correct: np.ndarray, objects: int) -> np.ndarray:
    """Finds the best precision at each recall or beyond, as COCO does.

    Args:
        correct: bool [n], a detection found an object; best first.
        objects: number of objects to find, at least 1.

    Returns:
        float64 [101], at each of :data:`RECALLS`; 0 where the recall is not reached. Its mean is
        COCO's AP.
    """
    hits = np.cumsum(correct)
    precision = hits / (np.arange(1, len(hits) + 1) + np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(hits / objects, RECALLS, "left")
    result = np.zeros(len(RECALLS))
    inside = reached < len(hits)
    result[inside] = precision[reached[inside]]
    return result


def best_choice(scores: np.ndarray, correct: np.ndarray, objects: int) -> Choice | None:
    """Finds the threshold with the highest F1; of several, the highest.

    Args:
        scores: float [n], highest first.
        correct: bool [n], a detection found an object.
        objects: number of objects to find.
    """
    if not correct.any():
        return None
    counts = np.arange(1, len(scores) + 1)
    hits = np.cumsum(correct)
    f1 = 2 * hits / (counts + objects)
    f1[:-1][scores[:-1] == scores[1:]] = 0  # a threshold cannot divide equal scores
    best = int(f1.argmax())
    right, detections = int(hits[best]), best + 1
    return Choice(
        threshold=float(scores[best]),
        precision=right / detections,
        recall=right / objects,
        f1=float(f1[best]),
        right=right,
        detections=detections,
    )


def curves_by_class(matched: dict[float, Matched], classes: int) -> list[ClassCurves]:
    """Finds the curves of each class.

    Args:
        matched: detections and objects by IoU; the first one decides what is right or wrong.
        classes: number of classes.
    """
    first = next(iter(matched.values()))
    objects = np.bincount(first.object_labels, minlength=classes).tolist()
    result = []
    for label, total in enumerate(objects):
        precision = {}
        for iou, at in matched.items():
            correct = at.found[at.labels == label] >= 0
            precision[iou] = np.full(len(RECALLS), np.nan)
            if total:
                precision[iou] = precision_at_recalls(correct, total)
        own = first.labels == label
        result.append(_curves(first.scores[own], first.found[own] >= 0, total, precision))
    return result


def overall_curves(matched: dict[float, Matched], by_class: list[ClassCurves]) -> ClassCurves:
    """Finds the curves of all classes together; the precision is the mean over classes."""
    first = next(iter(matched.values()))
    counted = [curves.precision for curves in by_class if curves.objects]
    precision = {
        iou: np.mean([of_class[iou] for of_class in counted], axis=0)
        if counted
        else np.full(len(RECALLS), np.nan)
        for iou in matched
    }
    return _curves(first.scores, first.found >= 0, len(first.object_labels), precision)


def confusion_matrix(matched: Matched, threshold: float, iou: float, classes: int) -> np.ndarray:
    """Counts what objects of each class were detected as.

    A detection that found an object of its class stays with it. Of the others, the best chooses
    first, among the objects of its image that nobody found.

    Args:
        matched: detections and objects, matched at ``iou``.
        threshold: the least score of a detection that is counted.
        iou: the least overlap with an object of another class.
        classes: number of classes C.

    Returns:
        int64 [C + 1, C + 1], class of the object by class of the detection; the last row is
        background, the last column missed objects.
    """
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    shown = matched.scores >= threshold
    right = shown & (matched.found >= 0)
    np.add.at(counts, (matched.labels[right], matched.labels[right]), 1)
    wrong = np.flatnonzero(shown & ~right)
    missed = np.flatnonzero(matched.object_scores < threshold)
    taken = np.full(len(wrong), -1)
    for rows, places in by_image(matched.images[wrong], matched.object_images[missed]):
        objects = missed[places]
        nobody = np.zeros(len(objects), bool)
        overlaps = overlaps_of(matched.boxes[wrong[rows]], matched.object_boxes[objects], nobody)
        matches = match_image(overlaps, np.ones(overlaps.shape, bool), nobody, iou)
        taken[rows] = np.where(matches >= 0, places[matches], -1)
    confused = taken >= 0
    true_labels = np.full(len(wrong), classes)
    true_labels[confused] = matched.object_labels[missed[taken[confused]]]
    np.add.at(counts, (true_labels, matched.labels[wrong]), 1)
    left = np.delete(missed, taken[confused])
    counts[:classes, classes] = np.bincount(matched.object_labels[left], minlength=classes)
    return counts


def size_buckets(matched: Matched) -> dict[str, SizeBucket]:
    """Counts the objects of each of :data:`SIZES`, and those that were found."""
    buckets = {}
    for name, (low, high) in SIZES.items():
        inside = (matched.object_areas >= low) & (matched.object_areas < high)
        found = int(matched.object_found[inside].sum())
        buckets[name] = SizeBucket(int(inside.sum()), found)
    return buckets


def _curves(
    scores: np.ndarray, correct: np.ndarray, objects: int, precision: dict[float, np.ndarray]
) -> ClassCurves:
    places = np.clip((scores * BINS).astype(np.int64), 0, BINS - 1)
    return ClassCurves(
        objects=objects,
        precision=precision,
        right=np.bincount(places[correct], minlength=BINS),
        wrong=np.bincount(places[~correct], minlength=BINS),
        best=best_choice(scores, correct, objects),
        recall=int(correct.sum()) / objects if objects else None,
    )
