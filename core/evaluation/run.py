"""Evaluation from start to end: pictures, detections, files of results, figures."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from core.batch import Detections
from core.dbs.coco import CocoDetection
from core.dbs.splits import open_split
from core.detectors import LoadedDetector
from core.errors import UserError
from core.evaluation.coco import coco_results, score_results
from core.evaluation.draw import draw_detections, side_by_side
from core.evaluation.pictures import decoded_pictures
from core.evaluation.report import class_table, progress, write_json
from core.models.detector import Drawings

logger = logging.getLogger(__name__)

# The command line's names of the splits, and the keys of the config's system section.
SPLITS = {"training": "train_split", "validation": "val_split", "testing": "test_split"}

_DRAWN_PICTURES = 200
_DRAWN_SCORE = 0.3


def evaluate_detector(detector: LoadedDetector, split: str, debug: bool = False) -> dict[str, Any]:
    """Evaluates a detector on a split of its config's data set.

    Files go into ``<result_dir>/<config>/<iteration>/<split>/``; see :func:`evaluate_database`.

    Args:
        detector: with its weights.
        split: a key of :data:`SPLITS`.
        debug: draw pictures.

    Raises:
        UserError: the data set is not there, cannot be read, or has other classes.
    """
    config = detector.config
    database = open_split(config.system, config.db, getattr(config.system, SPLITS[split]))
    check_classes(detector, database)
    iteration = detector.snapshot.stem if detector.iteration is None else str(detector.iteration)
    about = {
        "config": config.name,
        "snapshot": str(detector.snapshot),
        "iteration": detector.iteration,
        "split": split,
        "annotation_file": str(database.annotation_file),
        "reference_scoring": config.db.reference_scoring,
    }
    return evaluate_database(
        detector.detections,
        database,
        Path(config.system.result_dir) / config.name / iteration / split,
        about,
        workers=config.system.workers,
        reference_scoring=config.db.reference_scoring,
        inspect=detector.inspect if debug else None,
    )


def check_classes(detector: LoadedDetector, database: CocoDetection) -> None:
    """Refuses a data set whose classes are not those of a detector.

    Raises:
        UserError: another number of classes, or other names where the weights came with names.
    """
    own, others = detector.class_names, database.class_names
    if len(own) != len(others):
        difference = f"{len(own)} classes and {database.annotation_file} has {len(others)}"
    else:
        pairs = zip(own, others, strict=True)
        different = [f"{mine!r} for {other!r}" for mine, other in pairs if mine != other]
        if not (detector.names_known and different):
            return
        difference = f"other classes than {database.annotation_file}: {', '.join(different[:3])}"
    raise UserError(
        f"{detector.snapshot} detects {difference}; evaluate on the data set it was trained for"
    )


def evaluate_database(
    detect: Callable[[np.ndarray], Detections],
    database: CocoDetection,
    folder: Path,
    about: Mapping[str, Any],
    *,
    workers: int,
    reference_scoring: bool = False,
    inspect: Callable[[np.ndarray], tuple[Detections, Drawings]] | None = None,
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
        inspect: as ``detect``, and gives drawings by name; it is called in its place for the first
            pictures, and they are drawn into ``folder/debug``, detections beside ground truth.

    Returns:
        The content of ``metrics.json``, without COCO's figures where there are no annotations.

    Raises:
        UserError: a picture cannot be decoded.
    """
    start = time.perf_counter()
    found = []
    pictures = decoded_pictures(database, workers)
    for index, image in enumerate(progress(pictures, len(database), "picture")):
        if inspect is None or index >= _DRAWN_PICTURES:
            found.append(detect(image))
        else:
            detections, drawings = inspect(image)
            found.append(detections)
            _draw(folder / "debug", image, detections, drawings, database, index)
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


def _draw(
    folder: Path,
    image: np.ndarray,
    found: Detections,
    drawings: Drawings,
    database: CocoDetection,
    index: int,
) -> None:
    """Writes picture ``index`` with its detections beside its ground truth, and other drawings."""
    shown = found.scores > _DRAWN_SCORE
    names = database.class_names
    detected = draw_detections(
        image, found.boxes[shown], found.labels[shown], found.scores[shown], names
    )
    truth = draw_detections(image, database.boxes(index), database.labels(index), None, names)
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{index:05d}_{database.image_path(index).stem}"
    both = side_by_side({"detections": detected, "ground truth": truth})
    cv2.imwrite(str(folder / f"{stem}.jpg"), both)
    for name, drawing in drawings.items():
        cv2.imwrite(str(folder / f"{stem}_{name}.jpg"), drawing)
