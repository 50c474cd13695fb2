"""COCO's result format and metrics (Lin et al. 2014; pycocotools does the matching).

Category ids and xywh boxes are used only here: everywhere else labels are 0 … C-1 and boxes xyxy.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..data.coco import CocoDetection, to_xywh
from ..structures import Detections

# In the order of COCOeval.stats: AP over IoU 0.50:0.95, at one IoU, of small (below 32² pixels),
# medium and large objects (above 96²); AR with 1, 10, 100 detections an image, and by size.
METRICS = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
)
_ALL_AREAS, _MOST_DETECTIONS = 0, -1  # positions in COCOeval.eval["precision"]


@dataclass(frozen=True)
class CocoScores:
    """COCO's metrics, 0 to 1; a metric is None if there is no object to find.

    Attributes:
        metrics: the twelve of :data:`METRICS`, by name.
        ap_by_class: AP of each class by name, in the order of the labels.
        table: the twelve metrics in COCO's own format; ``-`` for those that are None.
    """

    metrics: dict[str, float | None]
    ap_by_class: dict[str, float | None]
    table: str


@dataclass(frozen=True)
class Metrics:
    """Result of an evaluation.

    Attributes:
        images: number of images.
        seconds: time from the first image to the last.
        scores: COCO's metrics; None if there are no annotations to compare with.
        results: detections in COCO's format on the main process; empty on others.
        skipped: number of images that were too large; they count as without detections.
        timing: seconds by stage (:class:`core.inference.timing.Timing`), of the main process.
    """

    images: int
    seconds: float
    scores: CocoScores | None
    results: Sequence[Mapping[str, Any]]
    skipped: int = 0
    timing: Mapping[str, float] = field(default_factory=dict)

    @property
    def images_per_second(self) -> float:
        """Speed from the first image to the last."""
        return self.images / self.seconds


def coco_results(
    found: Sequence[Detections], dataset: CocoDetection, reference_scoring: bool = False
) -> list[dict[str, Any]]:
    """Converts detections to COCO's list of results.

    Args:
        found: one for each image of ``dataset``, in its order.
        dataset: dataset of the images, with the ids of images and categories.
        reference_scoring: round boxes and scores to 2 decimals as the reference does.
    """
    assert len(found) == len(dataset), (len(found), len(dataset))
    return [
        result
        for image_id, detections in zip(dataset.image_ids.tolist(), found, strict=True)
        for result in image_results(
            detections, image_id, dataset.category_ids, 2 if reference_scoring else None
        )
    ]


def image_results(
    found: Detections, image_id: int, category_ids: np.ndarray, decimals: int | None = None
) -> list[dict[str, Any]]:
    """Converts the detections of an image to entries of COCO's list of results.

    Args:
        found: detections of the image.
        image_id: its id.
        category_ids: int64 [C], id of each class.
        decimals: computes boxes in float32 and rounds them and the scores, as the reference does;
            None: exact.
    """
    xywh = to_xywh(found.boxes, np.float64 if decimals is None else np.float32)
    boxes, scores = xywh.tolist(), found.scores.tolist()
    if decimals is not None:
        boxes = [[round(side, decimals) for side in box] for box in boxes]
        scores = [round(score, decimals) for score in scores]
    columns = boxes, scores, category_ids[found.labels].tolist()
    return [
        {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
        for box, score, category_id in zip(*columns, strict=True)
    ]


def score_results(results: Sequence[Mapping[str, Any]], dataset: CocoDetection) -> CocoScores:
    """Compares results with the objects of their dataset.

    Args:
        results: list from :func:`coco_results`; an empty one gives metrics of 0.
        dataset: dataset with annotations; without any object, all metrics are None.
    """
    evaluation = coco_evaluation(results, dataset)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    with contextlib.redirect_stdout(io.StringIO()) as table:
        evaluation.summarize()
    precision = evaluation.eval["precision"]  # [IoU thresholds, recalls, C, areas, detections]
    by_class = precision[:, :, :, _ALL_AREAS, _MOST_DETECTIONS].mean((0, 1))
    return CocoScores(
        metrics={
            name: _metric(value) for name, value in zip(METRICS, evaluation.stats, strict=True)
        },
        ap_by_class={
            name: _metric(value) for name, value in zip(dataset.class_names, by_class, strict=True)
        },
        table=table.getvalue().rstrip().replace("= -1.000", "=     -"),
    )


def coco_evaluation(results: Sequence[Mapping[str, Any]], dataset: CocoDetection) -> COCOeval:
    """Prepares pycocotools' comparison of results with the objects of their dataset.

    Args:
        results: list from :func:`coco_results`; their ids are their positions in it, from 1 on.
        dataset: dataset with annotations; a crowd is an object that nobody must find.
    """
    return COCOeval(
        _coco(_truth(dataset), dataset),
        _coco(_found(results), dataset),
        "bbox",
    )


def _coco(annotations: list[dict[str, Any]], dataset: CocoDetection) -> COCO:
    # COCO.loadRes fails on an empty list, and COCO(file) on files with fewer fields than COCO's.
    coco = COCO()
    coco.dataset = {
        "images": [{"id": identity} for identity in dataset.image_ids.tolist()],
        "categories": [{"id": identity} for identity in dataset.category_ids.tolist()],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _truth(dataset: CocoDetection) -> list[dict[str, Any]]:
    """Objects of a dataset with the fields that COCOeval reads.

    They get ids from 1 on, because COCOeval takes a match with an id of 0 for no match.
    """
    truth = dataset.truth()
    columns = {
        "image_id": dataset.image_ids[truth.images],
        "category_id": dataset.category_ids[truth.labels],
        "bbox": truth.boxes,
        "area": truth.areas,
        "iscrowd": truth.crowd.astype(int),
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [
        {"id": number, **dict(zip(columns, row, strict=True))} for number, row in enumerate(rows, 1)
    ]


def _found(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**result, "id": number, "area": result["bbox"][2] * result["bbox"][3], "iscrowd": 0}
        for number, result in enumerate(results, 1)
    ]


def _metric(value: float) -> float | None:
    return None if value < 0 else float(value)
