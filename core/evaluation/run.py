"""Evaluation from start to end: pictures, detections, files of results, figures."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from core.batch import Detections
from core.dbs.coco import CocoDetection
from core.evaluation.coco import coco_results, score_results
from core.evaluation.draw import draw_detections, side_by_side
from core.evaluation.pictures import decoded_pictures
from core.evaluation.report import class_table, write_json

logger = logging.getLogger(__name__)

Detect = Callable[[np.ndarray], Detections]

_DRAWN_PICTURES = 200
_DRAWN_SCORE = 0.3


def evaluate_database(
    detect: Detect,
    database: CocoDetection,
    folder: Path,
    about: Mapping[str, Any],
    *,
    workers: int,
    reference_scoring: bool = False,
    debug: bool = False,
) -> dict[str, Any]:
    """Detects the objects of every picture and compares them with the annotations.

    Writes ``results.json`` and, where there are annotations, ``metrics.json`` into ``folder``.

    Args:
        detect: finds the objects in a picture uint8 [h, w, 3].
        database: pictures, and the annotations if it has any.
        folder: takes the files; it is made.
        about: what ``metrics.json`` says besides the figures: config, snapshot and so on.
        workers: processes that decode pictures.
        reference_scoring: see :func:`core.evaluation.coco.coco_results`.
        debug: draw detections beside ground truth into ``folder/debug``.

    Returns:
        The content of ``metrics.json``, without COCO's figures where there are no annotations.

    Raises:
        UserError: a picture cannot be decoded.
    """
    start = time.perf_counter()
    found = []
    pictures = _with_progress(decoded_pictures(database, workers), len(database))
    for index, image in enumerate(pictures):
        found.append(detect(image))
        if debug and index < _DRAWN_PICTURES:
            _draw(folder / "debug", image, found[index], database, index)
    seconds = time.perf_counter() - start
    results = coco_results(found, database, reference_scoring)
    write_json(folder / "results.json", results)
    metrics = {
        **about,
        "pictures": len(database),
        "seconds": round(seconds, 2),
        "images_per_second": round(len(database) / seconds, 2),
    }
    if not database.has_annotations:
        logger.info(
            "%s has no annotations to compare with: no figures; the detections are in %s",
            database.annotation_file,
            folder / "results.json",
        )
        return metrics
    scores = score_results(results, database)
    metrics |= {**scores.figures, "AP_by_class": scores.ap_by_class}
    write_json(folder / "metrics.json", metrics, indent=2)
    logger.info("%s\n\nAP of each class\n%s\n", scores.table, class_table(scores.ap_by_class))
    logger.info(
        "%d pictures in %.1f s (%.2f a second); files in %s",
        len(database),
        seconds,
        len(database) / seconds,
        folder,
    )
    return metrics


def _with_progress(pictures: Iterator[np.ndarray], total: int) -> Iterator[np.ndarray]:
    return iter(tqdm(pictures, total=total, desc="detecting", unit="picture", disable=None))


def _draw(
    folder: Path, image: np.ndarray, found: Detections, database: CocoDetection, index: int
) -> None:
    """Writes picture ``index`` with its detections beside its ground truth."""
    shown = found.scores > _DRAWN_SCORE
    names = database.class_names
    detected = draw_detections(
        image, found.boxes[shown], found.labels[shown], found.scores[shown], names
    )
    truth = draw_detections(image, database.boxes(index), database.labels(index), None, names)
    folder.mkdir(parents=True, exist_ok=True)
    stem = database.image_path(index).stem
    cv2.imwrite(str(folder / f"{index:05d}_{stem}.jpg"), side_by_side(detected, truth))
