"""Evaluation from start to end: pictures, detections, files of results, figures."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..config.errors import UserError
from ..data.coco import CocoDetection
from ..data.splits import open_split
from ..distributed.ranks import ONE_PROCESS, Ranks
from ..inference.saccade import SaccadeRound
from ..models.loading import LoadedDetector
from ..structures import Detections
from .coco import coco_results, score_results
from .draw import draw_detections, draw_saccades, jpeg, side_by_side
from .report import class_table, progress, write_json
from .shares import every_image

logger = logging.getLogger(__name__)

# The command line's names of the splits, and the keys of the config's system section.
SPLITS = {"training": "train_split", "validation": "val_split", "testing": "test_split"}

_DRAWN_PICTURES = 200
_DRAWN_SCORE = 0.3


def evaluate_detector(
    detector: LoadedDetector, split: str, debug: bool = False, ranks: Ranks = ONE_PROCESS
) -> dict[str, Any]:
    """Evaluates a detector on a split of its config's data set; the ranks share the pictures.

    Files go into ``<result_dir>/<config>/<iteration>/<split>/``; see :func:`evaluate_dataset`.

    Args:
        detector: with its weights.
        split: a key of :data:`SPLITS`.
        debug: draw pictures.
        ranks: this process among those that evaluate together, each with the same detector.

    Raises:
        UserError: the data set is not there, cannot be read, or has other classes.
    """
    config = detector.config
    with ranks.agree_on_errors():
        dataset = open_split(config.system, config.db, getattr(config.system, SPLITS[split]))
        check_classes(detector, dataset)
    iteration = detector.snapshot.stem if detector.iteration is None else str(detector.iteration)
    about = {
        "config": config.name,
        "snapshot": str(detector.snapshot),
        "iteration": detector.iteration,
        "split": split,
        "annotation_file": str(dataset.annotation_file),
        "reference_scoring": config.db.reference_scoring,
    }
    return evaluate_dataset(
        detector.detections,
        dataset,
        Path(config.system.result_dir) / config.name / iteration / split,
        about,
        workers=config.system.workers,
        reference_scoring=config.db.reference_scoring,
        draw=debug,
        ranks=ranks,
    )


def check_classes(detector: LoadedDetector, dataset: CocoDetection) -> None:
    """Refuses a data set whose classes are not those of a detector.

    Raises:
        UserError: another number of classes, or other names where the weights came with names.
    """
    own, others = detector.class_names, dataset.class_names
    if len(own) != len(others):
        difference = f"{len(own)} classes and {dataset.annotation_file} has {len(others)}"
    else:
        pairs = zip(own, others, strict=True)
        different = [f"{mine!r} for {other!r}" for mine, other in pairs if mine != other]
        if not (detector.names_known and different):
            return
        difference = f"other classes than {dataset.annotation_file}: {', '.join(different[:3])}"
    raise UserError(
        f"{detector.snapshot} detects {difference}; evaluate on the data set it was trained for"
    )


def evaluate_dataset(
    detect: Callable[..., Detections],
    dataset: CocoDetection,
    folder: Path,
    about: Mapping[str, Any],
    *,
    workers: int,
    reference_scoring: bool = False,
    draw: bool = False,
    ranks: Ranks = ONE_PROCESS,
) -> dict[str, Any]:
    """Detects the objects of every picture and compares them with the annotations.

    Writes ``results.json`` and, where there are annotations, ``metrics.json`` into ``folder``.
    Several ranks share the pictures; rank 0 writes, and every file is as if it were alone, with as
    many threads: on CPUs their number changes a network's last digits.

    Args:
        detect: finds the objects in a picture uint8 [h, w, 3].
        dataset: pictures, and the annotations if it has any.
        folder: takes the files; it is made.
        about: what ``metrics.json`` says besides the figures: config, snapshot and so on.
        workers: processes that decode pictures, for each rank.
        reference_scoring: see :func:`core.evaluation.coco.coco_results`.
        draw: draw the first pictures into ``folder/debug``, detections beside ground truth, and the
            rounds that ``detect(image, trace)`` adds to a list.
        ranks: this process among those that evaluate together.

    Returns:
        The content of ``metrics.json``, without COCO's figures where there are no annotations.

    Raises:
        UserError: a picture cannot be decoded.
    """

    def look(index: int, image: np.ndarray) -> tuple[Detections, dict[str, bytes]]:
        if not draw or index >= _DRAWN_PICTURES:
            return detect(image), {}
        trace: list[SaccadeRound] = []
        found = detect(image, trace)
        return found, _draw(image, found, trace, dataset, index)

    start = time.perf_counter()
    found = []
    with ranks.agree_on_errors():
        pictures = every_image(look, dataset, workers, ranks)
        for detections, drawn in progress(pictures, len(dataset), "picture", ranks.is_main):
            found.append(detections)
            if ranks.is_main:
                _write(folder / "debug", drawn)
    metrics = dict(about) | _speed(len(dataset), time.perf_counter() - start)
    if ranks.is_main:
        metrics |= _report(found, dataset, folder, metrics, reference_scoring)
    return ranks.broadcast(metrics)


def _speed(pictures: int, seconds: float) -> dict[str, Any]:
    return {
        "pictures": pictures,
        "seconds": round(seconds, 2),
        "images_per_second": round(pictures / seconds, 2),
    }


def _report(
    found: Sequence[Detections],
    dataset: CocoDetection,
    folder: Path,
    metrics: Mapping[str, Any],
    reference_scoring: bool,
) -> dict[str, Any]:
    """Writes and logs what was found and how good it is; returns COCO's figures, if there are."""
    results = coco_results(found, dataset, reference_scoring)
    write_json(folder / "results.json", results)
    if not dataset.has_annotations:
        logger.info(
            "%s has no annotations to compare with: no figures; the detections are in %s",
            dataset.annotation_file,
            folder / "results.json",
        )
        return {}
    scores = score_results(results, dataset)
    figures: dict[str, Any] = {**scores.figures, "AP_by_class": scores.ap_by_class}
    write_json(folder / "metrics.json", {**metrics, **figures}, indent=2)
    logger.info("%s\n\nAP of each class\n%s\n", scores.table, class_table(scores.ap_by_class))
    logger.info(
        "%d pictures in %.1f s (%.2f a second); files in %s",
        metrics["pictures"],
        metrics["seconds"],
        metrics["images_per_second"],
        folder,
    )
    return figures


def _draw(
    image: np.ndarray,
    found: Detections,
    trace: Sequence[SaccadeRound],
    dataset: CocoDetection,
    index: int,
) -> dict[str, bytes]:
    """JPEG files by name: picture ``index`` with its detections and its truth, and drawings."""
    shown = found.scores > _DRAWN_SCORE
    names = dataset.class_names
    detected = draw_detections(
        image, found.boxes[shown], found.labels[shown], found.scores[shown], names
    )
    truth = draw_detections(image, dataset.boxes(index), dataset.labels(index), None, names)
    stem = f"{index:05d}_{dataset.image_path(index).stem}"
    pictures = {stem: side_by_side({"detections": detected, "ground truth": truth})}
    if trace:
        pictures[f"{stem}_saccades"] = draw_saccades(image, trace)
    return {f"{name}.jpg": jpeg(picture) for name, picture in pictures.items()}


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
