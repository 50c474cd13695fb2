"""COCO metrics of the validation split while a run trains, and its best weights so far."""

import logging
import time
from dataclasses import dataclass

from ..checkpoint.snapshot import Meta, read_meta, save_snapshot, versions
from ..config.errors import UserError
from ..distributed import Signals
from ..evaluation.evaluator import ImageError, Metrics, evaluate
from .log import read_log
from .run import TrainingRun

logger = logging.getLogger(__name__)

_LOGGED = ("AP", "AP50", "AP75")  # metrics in the line that is logged


@dataclass(frozen=True)
class Evaluation:
    """Result of one evaluation.

    Attributes:
        iteration: number of steps that trained the weights.
        metrics: COCO's metrics, by the names in :data:`core.evaluation.coco.METRICS`.
        best: True if AP is above that of every earlier evaluation.
        seconds: duration of the evaluation.
    """

    iteration: int
    metrics: dict[str, float | None]
    best: bool
    seconds: float


class Evaluations:
    """Evaluates the network of a run after some of its steps. All ranks evaluate together.

    Training is not affected: weights, random numbers and the mode of the network stay the same. The
    weights with the highest AP are kept as ``<name>_best.pkl``, with their AP in the description
    beside them. So a resumed run knows the highest AP so far, unless that was reached after the
    step from which it resumes.

    Args:
        run: the run.

    Attributes:
        interrupted: True if the evaluation after step ``run.start`` is due and was not logged,
            because its process was killed before; it must be rerun.

    Raises:
        UserError: the validation split has no annotations.
    """

    def __init__(self, run: TrainingRun) -> None:
        self._run, dataset = run, run.validation_dataset
        assert dataset is not None
        with run.ranks.agree_on_errors():
            if not dataset.has_annotations:
                raise UserError(
                    f"{dataset.annotation_file} has no annotations to evaluate with; "
                    "system.eval_iter=0 trains without evaluations"
                )
        self._dataset = dataset
        self.interrupted = run.ranks.broadcast(run.ranks.is_main and _was_interrupted(run))
        self._highest = None
        if run.ranks.is_main:
            self._highest = _highest_before(run, run.start - self.interrupted)

    def evaluate(self, iteration: int, signals: Signals) -> Evaluation | None:
        """Evaluates the weights after step ``iteration``. All ranks call this together.

        If an image cannot be evaluated, a line says so, and the run continues without metrics.

        Args:
            iteration: number of the step.
            signals: signals of the run; one that asks the run to end also ends the evaluation.

        Returns:
            The result on the main process; None if it failed, and on other ranks.
        """
        start, evaluation = time.perf_counter(), None
        metrics = self._measure(iteration, signals)
        if metrics is not None and self._run.ranks.is_main:
            evaluation = self._compare(iteration, metrics, start)
        self._run.ranks.barrier()  # the others wait here for the main process, not in a step
        return evaluation

    def _measure(self, iteration: int, signals: Signals) -> Metrics | None:
        """Computes the metrics on all ranks together; if that fails, logs a line, returns None."""
        run = self._run
        run.ranks.broadcast_(run.network.buffers())
        run.network.eval()
        try:
            return evaluate(
                run.detector,
                self._dataset,
                run.config,
                ranks=run.ranks,
                asked_to_stop=lambda: signals.asked,
            )
        except (UserError, ImageError) as error:
            if run.ranks.is_main:
                cause = None if isinstance(error, UserError) else error
                logger.error("step %d was not evaluated: %s", iteration, error, exc_info=cause)
            return None
        finally:
            run.network.train()

    def _compare(self, iteration: int, metrics: Metrics, start: float) -> Evaluation:
        """Compares AP with the highest so far, and keeps the weights if it is above that."""
        assert metrics.scores is not None
        values = metrics.scores.metrics
        ap = values["AP"]
        best = ap is not None and (self._highest is None or ap > self._highest)
        evaluation = Evaluation(iteration, values, best, time.perf_counter() - start)
        shown = ", ".join(f"{name} {values[name] or 0:.3f}" for name in _LOGGED)
        seconds = f"{metrics.images} images in {evaluation.seconds:.1f} s"
        logger.info("step %d: %s; %s%s", iteration, shown, seconds, "; the best so far" * best)
        if best:
            self._highest = ap
            self._keep(evaluation)
        return evaluation

    def _keep(self, evaluation: Evaluation) -> None:
        """Saves the weights as the best of the run."""
        run = self._run
        meta = Meta(
            name=run.config.name,
            iteration=evaluation.iteration,
            class_names=self._dataset.class_names,
            config=run.config.as_dict(),
            versions=versions(),
            metrics=evaluation.metrics,
        )
        try:
            save_snapshot(run.directory.best, run.detector.network, None, meta)
        except OSError as error:
            logger.error("%s was not written: %s; training goes on", run.directory.best, error)


def _was_interrupted(run: TrainingRun) -> bool:
    """True if step ``run.start`` had to be evaluated, and the log has no evaluation of it."""
    if not run.start or run.start % run.config.system.eval_iter:
        return False
    records = read_log(run.directory.log) if run.directory.log.is_file() else []
    return not any("evaluation" in x and x["iteration"] == run.start for x in records)


def _highest_before(run: TrainingRun, start: int) -> float | None:
    """AP of the best weights of a run, if they were reached by step ``start``."""
    path = run.directory.best
    try:
        meta = read_meta(path) if path.is_file() else None
    except UserError as error:
        logger.warning("%s; the best AP so far is forgotten", error)
        return None
    if meta is None or meta.metrics is None or meta.iteration > start:
        return None
    return meta.metrics["AP"]
