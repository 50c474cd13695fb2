"""COCO's figures of the validation split while a run trains, and its best weights so far."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..checkpoint import snapshot as checkpoint
from ..checkpoint.snapshot import Meta
from ..config.errors import UserError
from ..config.loading import Config
from ..data.coco import CocoDetection
from ..distributed.ranks import Ranks
from ..models.detector import Detector
from ..structures import Detections
from .coco import coco_results, score_results
from .shares import ImageError, every_image

logger = logging.getLogger(__name__)

_SHOWN = ("AP", "AP50", "AP75")  # figures in the line that is logged


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        figures: COCO's, see :data:`core.evaluation.coco.METRICS`.
        best: whether AP is above that of every evaluation before.
        seconds: that it took.
    """

    figures: dict[str, float | None]
    best: bool
    seconds: float


class Evaluations:
    """Evaluates the network of a run after some of its steps; the ranks share the pictures.

    Training does not notice: weights, random numbers and the mode of the network stay as they are.
    The weights with the highest AP are kept as ``<name>_best.pkl``, and the file beside them says
    how high it is. So a run that is resumed knows what is to beat, unless it was reached after the
    step from which the run goes on.

    Args:
        detector: that is trained; its network is on ``device``.
        dataset: the validation split.
        config: of the run.
        device: where the network is.
        ranks: this process among those that train together.
        start: steps behind the run that were evaluated, where they had to be.

    Raises:
        UserError: the validation split has no annotations.
    """

    def __init__(
        self,
        detector: Detector,
        dataset: CocoDetection,
        config: Config,
        device: torch.device,
        ranks: Ranks,
        start: int,
    ) -> None:
        if not dataset.has_annotations:
            raise UserError(
                f"{dataset.annotation_file} has no annotations to evaluate with; "
                "system.eval_iter=0 trains without evaluations"
            )
        self._detector, self._dataset, self._config = detector, dataset, config
        self._device, self._ranks = device, ranks
        self._path = checkpoint.best_path(config.system.cache_dir, config.name)
        self._highest = _highest_before(self._path, start) if ranks.is_main else None

    def __call__(self, iteration: int, asked: Callable[[], str | None]) -> Evaluation | None:
        """Evaluates the weights after step ``iteration``. All ranks call this together.

        A picture that cannot be looked at costs the figures and not the run: a line says so.

        Args:
            iteration: number of the step.
            asked: gives the name of a signal that asked the run to end; the evaluation ends, too.

        Returns:
            What it found, on rank 0; None if it failed, and on other ranks.
        """
        self._detector.network.eval()
        start, evaluation = time.perf_counter(), None
        try:
            found = self._look(asked)
            if self._ranks.is_main:
                evaluation = self._score(iteration, found, start)
        except (UserError, ImageError) as error:
            if self._ranks.is_main:
                cause = None if isinstance(error, UserError) else error
                logger.error("step %d was not evaluated: %s", iteration, error, exc_info=cause)
        finally:
            self._detector.network.train()
        self._ranks.barrier()  # rank 0 had to score, for which the next step would not wait
        return evaluation

    @torch.no_grad()
    def _look(self, asked: Callable[[], str | None]) -> list[Detections]:
        """What all ranks find, picture by picture."""
        detector, system = self._detector, self._config.system
        half = system.precision == "bfloat16"
        predict = detector.predict(self._device, half)

        def look(index: int, image: np.ndarray) -> Detections:
            if asked():
                raise UserError(f"{asked()} was received")
            return detector.infer(image, predict)

        self._ranks.broadcast_(detector.network.buffers())
        return list(every_image(look, self._dataset, system.workers, self._ranks))

    def _score(self, iteration: int, found: list[Detections], start: float) -> Evaluation:
        """The figures, logged; the weights are kept if they are the best."""
        results = coco_results(found, self._dataset, self._config.db.reference_scoring)
        figures = score_results(results, self._dataset).figures
        precision = figures["AP"]
        best = precision is not None and (self._highest is None or precision > self._highest)
        evaluation = Evaluation(figures, best, time.perf_counter() - start)
        shown = ", ".join(f"{name} {figures[name] or 0:.3f}" for name in _SHOWN)
        seconds = f"{len(found)} pictures in {evaluation.seconds:.1f} s"
        logger.info("step %d: %s; %s%s", iteration, shown, seconds, "; the best so far" * best)
        if best:
            self._highest = precision
            self._keep(iteration, figures)
        return evaluation

    def _keep(self, iteration: int, figures: dict[str, float | None]) -> None:
        meta = Meta(
            name=self._config.name,
            iteration=iteration,
            class_names=self._dataset.class_names,
            config=self._config.as_dict(),
            versions=checkpoint.versions(),
            figures=figures,
        )
        try:
            checkpoint.save_snapshot(self._path, self._detector.network, None, meta)
        except OSError as error:
            logger.error("%s was not written: %s; training goes on", self._path, error)


def _highest_before(path: Path, start: int) -> float | None:
    """AP of the best weights of a run, if they were reached by step ``start``."""
    try:
        meta = checkpoint.read_meta(path) if path.is_file() else None
    except UserError as error:
        logger.warning("%s; the best AP so far is forgotten", error)
        return None
    if meta is None or meta.figures is None or meta.iteration > start:
        return None
    return meta.figures["AP"]
