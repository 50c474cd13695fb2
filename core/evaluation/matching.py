"""Which detection found which object, as COCO decides it (the matching of pycocotools' COCOeval).

Within an image and a class, the best detection chooses first, and takes the object that it overlaps
most of those that are not taken. A crowd is an object that nobody must find: what lies in it and
found nothing else does not count.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask

from ..data.coco import CocoDetection, Truth

MOST_DETECTIONS = 100  # of a class in an image; COCO leaves the others out of the score
WRONG, IN_CROWD = -1, -2  # a detection that found nothing; one that found a crowd


@dataclass(frozen=True)
class Matched:
    """Detections, best first, and objects of a dataset, matched at one IoU.

    Detections that found a crowd, those beyond COCO's 100 of a class in an image, and crowds are
    left out.

    Attributes:
        boxes, scores, images, labels: xywh float64 [n, 4], float64 [n], positions of the images in
            the dataset and labels int64 [n] of detections.
        found: int64 [n], number of the object that a detection found, -1 if it is wrong.
        object_boxes, object_areas, object_images, object_labels: the same of the objects, [m, 4]
            and [m]; areas in square pixels, float64.
        object_scores: float64 [m], score of the detection that found an object; -inf if none did.
    """

    boxes: np.ndarray
    scores: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    found: np.ndarray
    object_boxes: np.ndarray
    object_areas: np.ndarray
    object_images: np.ndarray
    object_labels: np.ndarray
    object_scores: np.ndarray

    @property
    def object_found(self) -> np.ndarray:
        """Which objects were found: bool [m]."""
        return self.object_scores > -np.inf


def match_image(overlaps: np.ndarray, own: np.ndarray, crowd: np.ndarray, iou: float) -> np.ndarray:
    """Matches the detections of an image with its objects, one to one.

    Args:
        overlaps: float [n, m], IoU of detections, best first, and objects, as :func:`overlaps_of`.
        own: bool [n, m], where the object is of the detection's class.
        crowd: bool [m].
        iou: the least overlap of a match.

    Returns:
        int64 [n], number of the object that each detection found, or WRONG or IN_CROWD.
    """
    found = np.full(len(overlaps), WRONG)
    fits = own & (overlaps >= min(iou, 1 - 1e-10))  # as COCO does
    found[(fits & crowd).any(1)] = IN_CROWD
    fits &= ~crowd
    free = np.where(fits, overlaps, -1.0)
    last = free.shape[1] - 1
    for row in np.flatnonzero(fits.any(1)).tolist():
        best = last - int(free[row, ::-1].argmax())  # of equal ones COCO takes the last
        if free[row, best] >= 0:
            found[row] = best
            free[:, best] = -1
    return found


def overlaps_of(boxes: np.ndarray, objects: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU of boxes xywh [n, 4] and [m, 4]: float64 [n, m]; in a crowd, the part that lies in it."""
    if not len(boxes) or not len(objects):
        return np.zeros((len(boxes), len(objects)))
    overlaps: np.ndarray = mask.iou(
        boxes.astype(np.float64), objects.astype(np.float64), crowd.astype(np.uint8).tolist()
    )
    return overlaps


def find_matches(
    results: Sequence[Mapping[str, Any]], dataset: CocoDetection, ious: Sequence[float]
) -> list[Matched]:
    """Matches the detections of a dataset with its objects.

    Args:
        results: list in COCO's format, as from :func:`core.evaluation.coco.coco_results`.
        dataset: dataset with annotations.
        ious: the least overlaps of a match.

    Returns:
        Detections and objects matched at each of ``ious``.
    """
    truth = dataset.truth()
    boxes, scores, images, labels = _columns(results, dataset)
    # Among equal scores COCO's order: images by their ids, then the order of the results.
    order = np.lexsort((np.arange(len(scores)), dataset.image_ids[images], -scores))
    order = order[_rank_in_group(images[order], labels[order]) < MOST_DETECTIONS]
    boxes, scores, images, labels = (column[order] for column in (boxes, scores, images, labels))
    found = np.full((len(ious), len(order)), WRONG)
    for rows, objects in by_image(images, truth.images):
        overlaps = overlaps_of(boxes[rows], truth.boxes[objects], truth.crowd[objects])
        own = labels[rows, None] == truth.labels[objects]
        for number, iou in enumerate(ious):
            matches = match_image(overlaps, own, truth.crowd[objects], iou)
            found[number, rows] = np.where(matches >= 0, objects[matches], matches)
    detections = boxes, scores, images, labels
    return [_matched(detections, truth, matches) for matches in found]


def by_image(
    images: np.ndarray, object_images: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Goes through the images that have detections and objects.

    Args:
        images: int64 [n], image of each detection.
        object_images: int64 [m], image of each object.

    Yields:
        Numbers of an image's detections, and of its objects, each in ascending order.
    """
    rows, objects = (np.argsort(column, kind="stable") for column in (images, object_images))
    sorted_images, sorted_object_images = images[rows], object_images[objects]
    both = np.intersect1d(sorted_images, sorted_object_images)
    ends = [
        np.searchsorted(column, both, side).tolist()
        for column in (sorted_images, sorted_object_images)
        for side in ("left", "right")
    ]
    for start, end, low, high in zip(*ends, strict=True):
        yield rows[start:end], objects[low:high]


def _matched(
    detections: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    truth: Truth,
    found: np.ndarray,
) -> Matched:
    """Leaves out crowds, and the detections that found them."""
    counted = ~truth.crowd
    numbers = np.cumsum(counted) - 1  # of the objects that are counted
    shown = found != IN_CROWD
    boxes, scores, images, labels = (column[shown] for column in detections)
    found = found[shown]
    right = found >= 0
    found[right] = numbers[found[right]]
    object_scores = np.full(int(counted.sum()), -np.inf)
    object_scores[found[right]] = scores[right]
    return Matched(
        boxes,
        scores,
        images,
        labels,
        found,
        truth.boxes[counted],
        truth.areas[counted],
        truth.images[counted],
        truth.labels[counted],
        object_scores,
    )


def _rank_in_group(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Counts the detections of the same class in the same image that come before: int64 [n]."""
    order = np.lexsort((labels, images))  # stable: the best stay first
    images, labels = images[order], labels[order]
    places = np.arange(len(order))
    is_first = np.ones(len(order), bool)
    is_first[1:] = (images[1:] != images[:-1]) | (labels[1:] != labels[:-1])
    ranks = np.empty(len(order), np.int64)
    ranks[order] = places - np.maximum.accumulate(np.where(is_first, places, 0))
    return ranks


def _columns(
    results: Sequence[Mapping[str, Any]], dataset: CocoDetection
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Boxes xywh float64 [n, 4], scores float64, positions of images and labels int64 [n]."""
    identities = np.array([row["image_id"] for row in results], np.int64)
    categories = np.array([row["category_id"] for row in results], np.int64)
    by_id = np.argsort(dataset.image_ids, kind="stable")
    return (
        np.array([row["bbox"] for row in results], np.float64).reshape(-1, 4),
        np.array([row["score"] for row in results], np.float64),
        by_id[np.searchsorted(dataset.image_ids, identities, sorter=by_id)],
        np.searchsorted(dataset.category_ids, categories),
    )
