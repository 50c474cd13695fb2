"""Types of error, and the AP50 that each costs (TIDE, Bolya et al. 2020, arXiv:2008.08115).

The matching is COCO's, so the AP50 is COCO's too. Where the paper leaves a choice, it is made as
in the authors' toolbox, so that the numbers can be compared: own class before other classes, and
an object that several wrong detections mean is given to the best of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.coco import CocoDetection
from .analysis import precision_at_recalls
from .matching import Matched, by_image, find_matches, overlaps_of

# IoU from which a detection finds an object, and up to which it shows background (section 2.2).
FOREGROUND, BACKGROUND = 0.5, 0.1

# The types of section 2.2, the first five of detections and the last of objects; then the two of
# section 2.3, which overlap with them: all wrong detections, and all objects that were not found.
TYPES = ("classification", "localization", "both", "duplicate", "background", "missed")
ALL_TYPES = (*TYPES, "false_positive", "false_negative")

# The types in words.
NAMES = {
    "classification": "wrong class",
    "localization": "imprecise box",
    "both": "class and box",
    "duplicate": "duplicate",
    "background": "background",
    "missed": "missed object",
    "false_positive": "all false positives",
    "false_negative": "all false negatives",
}

_CORRECT = -1  # the type of a detection that found an object; others are positions in TYPES
_CLASSIFICATION, _LOCALIZATION, _BOTH, _DUPLICATE, _BACKGROUND = range(5)


@dataclass(frozen=True)
class Breakdown:
    """Errors in a dataset, or in the detections and objects of one of its classes.

    Attributes:
        ap50: AP at an IoU of 0.5, 0 to 1; None if there is no object to find.
        objects: number of objects; crowds are not counted.
        counts: number of errors by type, for all of :data:`ALL_TYPES`; in a class, those of
            detections of that class and of its objects.
        costs: by how much the AP50 would rise without the errors of a type alone, by type. They
            don't add up to what is missing to 1. None where the AP50 is.
    """

    ap50: float | None
    objects: int
    counts: dict[str, int]
    costs: dict[str, float | None]


@dataclass(frozen=True)
class Errors:
    """Errors of a detector on a dataset.

    Attributes:
        overall: errors in the dataset; its AP50s are means over the classes that have objects.
        by_class: errors in each class by name, in the order of the labels.
    """

    overall: Breakdown
    by_class: dict[str, Breakdown]


@dataclass(frozen=True)
class Causes:
    """What is wrong with detections and objects.

    Attributes:
        types: int64 [n], position in :data:`TYPES` of each detection's type, -1 if it is correct.
        repaired: int64 [n], object that a detection finds when its error is fixed; -1: none, so
            that fixing it is to remove it.
        missed: bool [m], an object was not found and no detection would find it if fixed.
    """

    types: np.ndarray
    repaired: np.ndarray
    missed: np.ndarray


def find_errors(results: Sequence[Mapping[str, Any]], dataset: CocoDetection) -> Errors:
    """Finds the errors in results and what each type of them costs.

    Args:
        results: list in COCO's format, as from :func:`core.evaluation.coco.coco_results`.
        dataset: dataset with annotations.
    """
    (matched,) = find_matches(results, dataset, [FOREGROUND])
    return count_errors(matched, find_causes(matched), dataset.class_names)


def count_errors(matched: Matched, causes: Causes, class_names: Sequence[str]) -> Errors:
    """Counts the errors of each type, and finds what they cost.

    Args:
        matched: detections and objects, matched at an IoU of :data:`FOREGROUND`.
        causes: what is wrong with them.
        class_names: C names.
    """
    classes = len(class_names)
    objects = _totals(matched, classes)
    base = _average_precision(matched.labels, matched.found >= 0, objects)
    fixed = {name: _fixed_precision(matched, causes, name, classes) for name in ALL_TYPES}
    counts = {name: _count(matched, causes, name, classes) for name in ALL_TYPES}

    def breakdown(labels: np.ndarray) -> Breakdown:
        scored = labels[objects[labels] > 0]
        return Breakdown(
            ap50=_mean(base[scored]),
            objects=int(objects[labels].sum()),
            counts={name: int(count[labels].sum()) for name, count in counts.items()},
            costs={name: _mean((values - base)[scored]) for name, values in fixed.items()},
        )

    return Errors(
        overall=breakdown(np.arange(classes)),
        by_class={name: breakdown(np.array([label])) for label, name in enumerate(class_names)},
    )


def find_causes(matched: Matched) -> Causes:
    """Finds the type of every error (section 2.2), and what fixing it does (section 2.3)."""
    wrong = np.flatnonzero(matched.found < 0)
    types = np.full(len(matched.labels), _CORRECT, np.int64)
    types[wrong] = _BACKGROUND
    meant = np.full(len(matched.labels), -1, np.int64)
    for places, objects in by_image(matched.images[wrong], matched.object_images):
        rows = wrong[places]
        types[rows], meant[rows] = _causes_in_image(matched, rows, objects)
    # The best detection that means an object takes it, unless the object was found.
    repaired = np.full(len(meant), -1, np.int64)
    candidates = np.flatnonzero(meant >= 0)
    candidates = candidates[~matched.object_found[meant[candidates]]]
    taken, best = np.unique(meant[candidates], return_index=True)
    repaired[candidates[best]] = taken
    missed = ~matched.object_found
    missed[taken] = False
    return Causes(types, repaired, missed)


def _causes_in_image(
    matched: Matched, rows: np.ndarray, objects: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the types of wrong detections of one image, and the objects that they mean, or -1.

    Args:
        matched: all detections and objects.
        rows: int64 [k], numbers of the wrong detections.
        objects: int64 [m], numbers of the objects of their image.
    """
    no_crowd = np.zeros(len(objects), bool)
    iou = overlaps_of(matched.boxes[rows], matched.object_boxes[objects], no_crowd)  # [k, m]
    own = matched.labels[rows, None] == matched.object_labels[None, objects]
    own_iou, other_iou = np.where(own, iou, 0), np.where(own, 0, iou)
    best_own, best_other = own_iou.max(1), other_iou.max(1)
    localization = (best_own >= BACKGROUND) & (best_own < FOREGROUND)
    classification = best_other >= FOREGROUND
    # An object of its own class that a wrong detection fits was found by a better one.
    duplicate = best_own >= FOREGROUND
    background = np.maximum(best_own, best_other) <= BACKGROUND
    cases = [localization, classification, duplicate, background]  # the earlier one goes before
    types = np.select(cases, [_LOCALIZATION, _CLASSIFICATION, _DUPLICATE, _BACKGROUND], _BOTH)
    meant = np.select(
        cases[:2], [objects[own_iou.argmax(1)], objects[other_iou.argmax(1)]], default=-1
    )
    return types, meant


def _fixed_precision(matched: Matched, causes: Causes, name: str, classes: int) -> np.ndarray:
    """AP50 of each class without the errors of one type (section 2.3): float64 [C].

    Fixed detections keep their score. Of missed objects only the number goes down.
    """
    correct = matched.found >= 0
    labels, objects = matched.labels, _totals(matched, classes)
    if name == "missed":
        objects = objects - np.bincount(matched.object_labels[causes.missed], minlength=classes)
        return _average_precision(labels, correct, objects)
    if name == "false_negative":
        objects = np.bincount(labels[correct], minlength=classes)
        return _average_precision(labels, correct, objects)
    fixed = ~correct if name == "false_positive" else causes.types == TYPES.index(name)
    repaired = fixed & (causes.repaired >= 0)
    if name == "false_positive":
        repaired[:] = False  # all are removed
    labels = labels.copy()
    labels[repaired] = matched.object_labels[causes.repaired[repaired]]
    kept = ~fixed | repaired
    return _average_precision(labels[kept], (correct | repaired)[kept], objects)


def _count(matched: Matched, causes: Causes, name: str, classes: int) -> np.ndarray:
    """Number of errors of a type in each class: int64 [C]."""
    if name in ("missed", "false_negative"):
        chosen = causes.missed if name == "missed" else ~matched.object_found
        return np.bincount(matched.object_labels[chosen], minlength=classes)
    wrong = matched.found < 0
    chosen = wrong if name == "false_positive" else causes.types == TYPES.index(name)
    return np.bincount(matched.labels[chosen], minlength=classes)


def _totals(matched: Matched, classes: int) -> np.ndarray:
    """Number of objects of each class: int64 [C]."""
    return np.bincount(matched.object_labels, minlength=classes)


def _average_precision(labels: np.ndarray, correct: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Computes AP of each class, the mean of the precision at 101 recalls, as COCO does.

    Args:
        labels: int64 [n], of detections, best first.
        correct: bool [n], a detection found an object.
        objects: int64 [C], number of objects to find.

    Returns:
        float64 [C]. Where there is nothing to find, 1 if nothing was detected, otherwise 0.
    """
    result = np.zeros(len(objects))
    for label, total in enumerate(objects.tolist()):
        own = correct[labels == label]
        if total:
            result[label] = precision_at_recalls(own, total).mean()
        else:
            result[label] = float(not len(own))
    return result


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
