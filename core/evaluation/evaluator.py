"""Evaluation of a detector: the objects of every image, compared with the annotations.

One evaluator serves evaluate.py, evaluations while training, and the benchmarks.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..config.errors import UserError
from ..config.loading import Config
from ..data.coco import CocoDetection
from ..data.images import decoded_images
from ..data.loader import LOST_WORKER, lost_worker_hint
from ..distributed import ONE_PROCESS, Ranks
from ..inference.batches import BatchedInference, Found
from ..inference.timing import Timing
from ..models.detector import Detector
from ..structures import Detections
from .coco import Metrics, coco_results, score_results
from .debug_drawings import debug_drawings
from .report import progress_bar

logger = logging.getLogger(__name__)

_DRAWN_IMAGES = 200  # the first ones
_ROUND = 16  # images of each rank between two exchanges of what was found


class EvaluationError(RuntimeError):
    """An evaluation failed: the message says at which image, or in the scoring, and why."""


class _Found(NamedTuple):
    """Result of one image: its detections, and drawings as JPEG files, by file name.

    ``problem`` says why an image that is too large was skipped.
    """

    detections: Detections
    drawings: Mapping[str, bytes]
    problem: str | None = None


class _Failure(NamedTuple):
    """An image that could not be evaluated; ``is_user_error`` if the user can fix it."""

    image: int
    is_user_error: bool
    message: str


def evaluate(
    detector: Detector,
    dataset: CocoDetection,
    config: Config,
    *,
    batch: int = 0,
    ranks: Ranks = ONE_PROCESS,
    show_progress: bool = False,
    debug_dir: Path | None = None,
    asked_to_stop: Callable[[], str | None] = lambda: None,
) -> Metrics:
    """Detects the objects of every image and scores them with COCO's metrics.

    Several ranks divide the images among them; the result is that of one process with the same
    number of threads, which on CPUs changes a network's last digits. An image that is too large
    for the memory is skipped with a warning, and counts as without detections.

    Args:
        detector: detector with its weights; its network is in evaluation mode.
        dataset: images, and annotations if there are any.
        config: config with the precision, the number of workers that decode images, and
            ``reference_scoring``.
        batch: as for :class:`core.inference.batches.BatchedInference`.
        ranks: this process among those that evaluate together, each with the same weights.
        show_progress: show a progress bar on the main process.
        debug_dir: folder for drawings of the first images, detections beside ground truth.
        asked_to_stop: returns the name of a signal that asked for the end, or None.

    Raises:
        UserError: an image is missing or damaged, every image is too large, or a signal asked for
            the end, on any rank.
        EvaluationError: the detector failed on an image, a worker was lost, on any rank, or the
            scoring failed.
    """
    device = next(detector.network.parameters()).device
    predict = detector.predict(device, half=config.system.precision == "bfloat16")
    own = range(ranks.rank, len(dataset), ranks.world_size)
    inference = BatchedInference(detector.infer, predict, batch)
    images = inference(decoded_images(dataset, config.system.workers, own))
    start = time.perf_counter()
    found: list[_Found] = []
    bar = progress_bar(len(dataset), "image", show_progress and ranks.is_main)
    with bar, contextlib.closing(images):
        for indices in _rounds(len(dataset), ranks.world_size):
            in_round: list[_Found] = []
            error: Exception | None = None
            try:
                for index in indices[ranks.rank :: ranks.world_size]:
                    if signal := asked_to_stop():
                        raise UserError(f"{signal} was received")
                    in_round.append(_of_image(next(images), dataset, index, bool(debug_dir)))
            except Exception as caught:
                error = caught
            failure = None if error is None else _describe(error, index, dataset)
            for one in _gather(in_round, failure, error, indices, ranks):
                if ranks.is_main:
                    _report(one, dataset.image_path(len(found)), debug_dir)
                found.append(one._replace(drawings={}))
                bar.update()
    return _score(found, dataset, config, ranks, time.perf_counter() - start, inference.timing)


def _of_image(inferred: Found, dataset: CocoDetection, index: int, drawn: bool) -> _Found:
    """Takes what was found in an image; draws it if it is one of the first and was not skipped."""
    image, detections, trace, problem = inferred
    drawings = {}
    if drawn and index < _DRAWN_IMAGES and image is not None and problem is None:
        drawings = debug_drawings(image, detections, trace, dataset, index)
    return _Found(detections, drawings, problem)


def _score(
    found: list[_Found],
    dataset: CocoDetection,
    config: Config,
    ranks: Ranks,
    seconds: float,
    timing: Timing,
) -> Metrics:
    """Scores the detections of all images on the main process, and broadcasts the scores.

    Raises:
        UserError: all images were skipped.
        EvaluationError: the scoring failed; on all ranks.
    """
    skipped = sum(one.problem is not None for one in found)
    if skipped == len(found):
        raise UserError(f"all {skipped} images were skipped; the first {found[0].problem}")
    results: list[dict[str, Any]] = []
    scores, problem, cause = None, None, None
    if ranks.is_main:
        try:
            detections = [one.detections for one in found]
            results = coco_results(detections, dataset, config.db.reference_scoring)
            scores = score_results(results, dataset) if dataset.has_annotations else None
        except Exception as error:  # the other ranks wait for the scores
            problem, cause = f"scoring failed: {type(error).__name__}: {error}", error
    scores, problem = ranks.broadcast((scores, problem))
    if problem is not None:
        raise EvaluationError(problem) from cause
    return Metrics(len(dataset), seconds, scores, results, skipped, timing.rounded())


def _rounds(images: int, world_size: int) -> Iterator[range]:
    """Cuts the numbers of the images into rounds, after each of which the ranks exchange results.

    A single process has one image a round.
    """
    size = _ROUND * world_size if world_size > 1 else 1
    for start in range(0, images, size):
        yield range(start, min(start + size, images))


def _describe(error: Exception, image: int, dataset: CocoDetection) -> _Failure:
    """Describes what went wrong with an image in a line, which can be sent to other ranks."""
    if isinstance(error, UserError):
        return _Failure(image, True, str(error))
    if str(error).startswith(LOST_WORKER):
        return _Failure(image, False, f"{str(error).strip()}{lost_worker_hint(str(error))}")
    message = f"{dataset.image_path(image)}: {type(error).__name__}: {error}"
    return _Failure(image, False, message)


def _gather(
    own: list[_Found],
    failure: _Failure | None,
    error: Exception | None,
    indices: range,
    ranks: Ranks,
) -> list[_Found]:
    """Collects the results of all ranks in a round, in the order of the images.

    Raises:
        UserError, EvaluationError: for the failure with the lowest image number, on all ranks.
    """
    if indices.start:  # in the first round workers start; later a lost rank is noticed as in a step
        ranks.sum([0])
    gathered = ranks.gather((own, failure))
    failures = [failure for _, failure in gathered if failure is not None]
    if failures:
        lowest = min(failures)
        if lowest.is_user_error:
            raise UserError(lowest.message)
        raise EvaluationError(lowest.message) from (
            None if str(error).startswith(LOST_WORKER) else error
        )
    world_size = ranks.world_size
    return [gathered[place % world_size][0][place // world_size] for place in range(len(indices))]


def _report(found: _Found, path: Path, debug_dir: Path | None) -> None:
    """Warns of an image that was skipped, and writes the drawings of one that was not."""
    if found.problem:
        logger.warning("skipped: %s %s", path, found.problem)
    if debug_dir is not None:
        for name, content in found.drawings.items():
            debug_dir.mkdir(parents=True, exist_ok=True)
            (debug_dir / name).write_bytes(content)
