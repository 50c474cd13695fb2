"""Types of error, and the AP50 that each costs (TIDE, Bolya et al. 2020, arXiv:2008.08115).

The matching is pycocotools', so the AP50 is COCO's. Where the paper leaves a choice, it is made as
in the authors' toolbox, so that the numbers can be compared: own class before other classes, and
an object that several wrong detections mean is given to the best of them.
"""

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask
from pycocotools.cocoeval import COCOeval

from ..data.coco import CocoDetection
from .coco import coco_evaluation

# IoU from which a detection finds an object, and up to which it shows background (section 2.2).
FOREGROUND, BACKGROUND = 0.5, 0.1

# The types of section 2.2, the first five of detections and the last of objects; then the two of
# section 2.3, which overlap with them: all wrong detections, and all objects that were not found.
TYPES = ("classification", "localization", "both", "duplicate", "background", "missed")
ALL_TYPES = (*TYPES, "false_positive", "false_negative")

_CORRECT = -1  # the type of a detection that found an object; others are positions in TYPES
_CLASSIFICATION, _LOCALIZATION, _BOTH, _DUPLICATE, _BACKGROUND = range(5)
_RECALLS = np.linspace(0, 1, 101)  # at which COCO takes the precision


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
class _Matched:
    """Detections, best first, and objects of a dataset, matched as COCO does.

    Detections that found a crowd, those beyond COCO's 100 of a class in an image, and crowds are
    left out.

    Attributes:
        boxes, images, labels: xywh float64 [n, 4], image ids and labels int64 [n] of detections.
        found: int64 [n], number of the object that a detection found, -1 if it is wrong.
        object_boxes, object_images, object_labels: the same of the objects, [m, 4] and [m].
        object_found: bool [m], an object was found.
    """

    boxes: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    found: np.ndarray
    object_boxes: np.ndarray
    object_images: np.ndarray
    object_labels: np.ndarray
    object_found: np.ndarray


@dataclass(frozen=True)
class _Causes:
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
    matched = _match(results, dataset)
    causes = _find_causes(matched)
    classes = len(dataset.class_names)
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
        by_class={
            name: breakdown(np.array([label])) for label, name in enumerate(dataset.class_names)
        },
    )


def _match(results: Sequence[Mapping[str, Any]], dataset: CocoDetection) -> _Matched:
    """Matches detections with objects at an IoU of :data:`FOREGROUND`."""
    evaluation = coco_evaluation(results, dataset)
    every_area, most = evaluation.params.areaRng[0], evaluation.params.maxDets[-1]
    evaluation.params.iouThrs = np.array([FOREGROUND])
    evaluation.params.areaRng, evaluation.params.maxDets = [every_area], [most]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
    boxes, images, labels = _columns(evaluation.cocoDt.dataset["annotations"], dataset)
    scores = np.array([result["score"] for result in results], np.float64)
    objects = _columns(evaluation.cocoGt.dataset["annotations"], dataset)
    found, shown, counted = _matches(evaluation, len(boxes), len(objects[0]))
    object_found = np.zeros(len(counted), bool)
    object_found[found[shown & (found >= 0)]] = True
    # Among equal scores COCO's order: images by their ids, then the order of the results.
    order = np.lexsort((np.arange(len(scores)), images, -scores))
    order = order[shown[order]]
    numbers = np.cumsum(counted) - 1  # of the objects that are counted
    found = np.where(found >= 0, numbers[found], -1) if len(counted) else found
    return _Matched(
        *(column[order] for column in (boxes, images, labels, found)),
        *(column[counted] for column in (*objects, object_found)),
    )


def _matches(
    evaluation: COCOeval, detections: int, objects: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Collects the matches of an evaluation with one IoU, whose ids count from 1.

    Returns:
        found: int64 [detections], number of the object that each found, -1 if none.
        shown: bool [detections], False for those that COCO leaves out of the score.
        counted: bool [objects], False for those that nobody must find.
    """
    found = np.full(detections, -1, np.int64)
    shown, counted = np.zeros(detections, bool), np.zeros(objects, bool)
    for entry in evaluation.evalImgs:
        if entry is not None:
            rows = np.array(entry["dtIds"], np.int64) - 1
            found[rows] = entry["dtMatches"][0].astype(np.int64) - 1
            shown[rows] = ~entry["dtIgnore"][0].astype(bool)
            counted[np.array(entry["gtIds"], np.int64) - 1] = np.asarray(entry["gtIgnore"]) == 0
    return found, shown, counted


def _columns(
    rows: Sequence[Mapping[str, Any]], dataset: CocoDetection
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes xywh float64 [n, 4], image ids and labels int64 [n] of records in COCO's format."""
    categories = np.array([row["category_id"] for row in rows], np.int64)
    return (
        np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4),
        np.array([row["image_id"] for row in rows], np.int64),
        np.searchsorted(dataset.category_ids, categories),
    )


def _find_causes(matched: _Matched) -> _Causes:
    """Finds the type of every error (section 2.2), and what fixing it does (section 2.3)."""
    types = np.full(len(matched.labels), _CORRECT, np.int64)
    meant = np.full(len(matched.labels), -1, np.int64)
    for rows, objects in _by_image(matched):
        types[rows], meant[rows] = _causes_in_image(matched, rows, objects)
    # The best detection that means an object takes it, unless the object was found.
    repaired = np.full(len(meant), -1, np.int64)
    candidates = np.flatnonzero(meant >= 0)
    candidates = candidates[~matched.object_found[meant[candidates]]]
    taken, best = np.unique(meant[candidates], return_index=True)
    repaired[candidates[best]] = taken
    missed = ~matched.object_found
    missed[taken] = False
    return _Causes(types, repaired, missed)


def _by_image(matched: _Matched) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers of the wrong detections of each image that has any, and of its objects."""
    wrong = np.flatnonzero(matched.found < 0)
    wrong = wrong[np.argsort(matched.images[wrong], kind="stable")]
    objects = np.argsort(matched.object_images, kind="stable")
    columns = (matched.images[wrong], matched.object_images[objects])
    for image in np.unique(columns[0]):
        (start, low), (end, high) = (
            [np.searchsorted(column, image, side) for column in columns]
            for side in ("left", "right")
        )
        yield wrong[start:end], objects[low:high]


def _causes_in_image(
    matched: _Matched, rows: np.ndarray, objects: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the types of wrong detections of one image, and the objects that they mean, or -1.

    Args:
        matched: all detections and objects.
        rows: int64 [k], numbers of the wrong detections.
        objects: int64 [m], numbers of the objects of their image.
    """
    if not len(objects):
        return np.full(len(rows), _BACKGROUND), np.full(len(rows), -1)
    crowds = [0] * len(objects)
    iou = mask.iou(matched.boxes[rows], matched.object_boxes[objects], crowds)  # [k, m]
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


def _fixed_precision(matched: _Matched, causes: _Causes, name: str, classes: int) -> np.ndarray:
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


def _count(matched: _Matched, causes: _Causes, name: str, classes: int) -> np.ndarray:
    """Number of errors of a type in each class: int64 [C]."""
    if name in ("missed", "false_negative"):
        chosen = causes.missed if name == "missed" else ~matched.object_found
        return np.bincount(matched.object_labels[chosen], minlength=classes)
    wrong = matched.found < 0
    chosen = wrong if name == "false_positive" else causes.types == TYPES.index(name)
    return np.bincount(matched.labels[chosen], minlength=classes)


def _totals(matched: _Matched, classes: int) -> np.ndarray:
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
        hits = np.cumsum(correct[labels == label])
        if total == 0:
            result[label] = float(not len(hits))
            continue
        precision = hits / (np.arange(1, len(hits) + 1) + np.spacing(1))
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        reached = np.searchsorted(hits / total, _RECALLS, "left")
        result[label] = precision[reached[reached < len(hits)]].sum() / len(_RECALLS)
    return result


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
