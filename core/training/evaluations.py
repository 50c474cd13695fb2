"""COCO metrics of the validation split while a run trains, and its best weights so far."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..checkpoint.snapshot import Meta, read_meta, save_snapshot, versions
from ..config.errors import UserError
from ..distributed import Signals
from ..evaluation.evaluator import EvaluationError, Metrics, evaluate
from ..evaluation.report import metric_text
from .averaging import averaged_weights_in
from .log import read_log
from .run import TrainingRun

logger = logging.getLogger(__name__)

_LOGGED = ("AP", "AP50", "AP75")  # metrics in the line that is logged

Values = Mapping[str, float | None]


@dataclass(frozen=True)
class Evaluation:
    """Result of one evaluation.

    Attributes:
        iteration: number of steps that trained the weights.
        metrics: COCO's metrics, by the names in :data:`core.evaluation.coco.METRICS`.
        best: True if AP is above that of every earlier evaluation.
        seconds: duration of the evaluation.
        weights: in a run that averages its weights, ``averaged`` or ``raw``: the weights that have
            these metrics, those with the higher AP, or the averaged ones if it is the same.
        by_weights: metrics of both, in such a run.
    """

    iteration: int
    metrics: Values
    best: bool
    seconds: float
    weights: str | None = None
    by_weights: Mapping[str, Values] = field(default_factory=dict)


@dataclass(frozen=True)
class FailedEvaluation:
    """An evaluation without a result.

    Attributes:
        iteration: number of the step after which it was tried.
        reason: what failed, in one line.
        seconds: time that it took.
    """

    iteration: int
    reason: str
    seconds: float


class Evaluations:
    """Evaluates the network of a run after some of its steps. All ranks evaluate together.

    Training is not affected: weights, random numbers and the mode of the network stay the same. The
    weights with the highest AP are kept as ``<name>_best.pkl``, with their AP in the description
    beside them. A run that averages its weights evaluates the averaged and the raw ones, and the
    better of them count. A resumed run takes the evaluations before from the log.

    Args:
        run: the run.

    Attributes:
        interrupted: True if the evaluation after step ``run.start`` is due and has no metrics in
            the log, because its process was killed before, or it failed; it must be rerun.
        exhausted: True if the last ``system.patience`` evaluations brought no better AP, so that
            training ends; never if that is 0. The same on all ranks.

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
        past = _logged_evaluations(run) if run.ranks.is_main else {}
        due = run.start > 0 and run.start % run.config.system.eval_iter == 0
        self.interrupted = run.ranks.broadcast(due and run.start not in past)
        self._history, self._kept = _History(), None
        if run.ranks.is_main:
            for ap in past.values():
                self._history.add(ap)
            self._kept = _highest_before(run, run.start - self.interrupted)
            self._history.raise_to(self._kept)
        self.exhausted = False if self.interrupted else self._agree_on_the_end(run.start)

    def evaluate(self, iteration: int, signals: Signals) -> Evaluation | FailedEvaluation | None:
        """Evaluates the weights after step ``iteration``. All ranks call this together.

        Whatever fails, a line says so, and the run continues without metrics of this step.

        Args:
            iteration: number of the step.
            signals: signals of the run; one that asks the run to end also ends the evaluation.

        Returns:
            The result on the main process; None on other ranks, and after a signal: the resumed run
            evaluates these weights again.
        """
        start = time.perf_counter()
        evaluation: Evaluation | FailedEvaluation | None = None
        found = self._measure(iteration, signals)
        if self._run.ranks.is_main:
            if not isinstance(found, str):
                evaluation = self._compare(iteration, found, start)
            elif not signals.asked:
                evaluation = FailedEvaluation(iteration, found, time.perf_counter() - start)
        # The others wait here for the main process, not in a step.
        self.exhausted = self._agree_on_the_end(iteration)
        return evaluation

    def _measure(self, iteration: int, signals: Signals) -> dict[str, Metrics] | str:
        """Computes the metrics on all ranks together; if that fails, logs why, and returns it."""
        run = self._run
        run.ranks.broadcast_(run.network.buffers())
        run.network.eval()
        found: dict[str, Metrics] = {}
        try:
            if run.config.system.ema is not None:
                with averaged_weights_in(run.detector.network, run.average, run.ranks):
                    found["averaged"] = self._metrics(signals)
            found["raw"] = self._metrics(signals)
        except Exception as error:
            agreed = isinstance(error, UserError | EvaluationError)  # all ranks raise these
            if run.ranks.world_size > 1 and not agreed:
                raise
            if run.ranks.is_main:
                cause = None if isinstance(error, UserError) else error
                logger.error("step %d was not evaluated: %s", iteration, error, exc_info=cause)
            kind = "" if agreed else f"{type(error).__name__}: "
            return kind + " ".join(str(error).split())
        finally:
            run.network.train()
        return found

    def _metrics(self, signals: Signals) -> Metrics:
        """Computes the metrics of the weights that the network has now."""
        return evaluate(
            self._run.detector,
            self._dataset,
            self._run.config,
            ranks=self._run.ranks,
            asked_to_stop=lambda: signals.asked,
        )

    def _compare(self, iteration: int, found: Mapping[str, Metrics], start: float) -> Evaluation:
        """Compares AP with the highest so far, and keeps the weights if it is above that."""
        by_weights: dict[str, Values] = {}
        for kind, metrics in found.items():
            assert metrics.scores is not None
            by_weights[kind] = metrics.scores.metrics
        better = max(by_weights, key=lambda kind: by_weights[kind]["AP"] or 0.0)  # or the first
        ap = by_weights[better]["AP"]
        best = self._history.add(ap)
        result = (iteration, by_weights[better], best, time.perf_counter() - start)
        both = (better, by_weights) if len(by_weights) > 1 else ()
        evaluation = Evaluation(*result, *both)
        logger.info("%s", _describe(evaluation, found["raw"].images))
        if ap is not None and (best or self._kept is None or ap > self._kept):
            self._kept = ap
            self._keep(evaluation)
        return evaluation

    def _keep(self, evaluation: Evaluation) -> None:
        """Saves the weights as the best of the run."""
        run = self._run
        average = run.average if evaluation.weights == "averaged" else None
        meta = Meta(
            name=run.config.name,
            iteration=evaluation.iteration,
            class_names=self._dataset.class_names,
            config=run.config.as_dict(),
            versions=versions(),
            metrics=dict(evaluation.metrics),
            weights=evaluation.weights,
            averaged_steps=None if average is None else average.steps,
        )
        weights = run.detector.network if average is None else average.state_dict()
        try:
            save_snapshot(run.directory.best, weights, None, run.snapshots.with_start(meta))
        except (OSError, MemoryError, RuntimeError) as error:
            logger.error("%s was not written: %s; training goes on", run.directory.best, error)

    def _agree_on_the_end(self, iteration: int) -> bool:
        """True on all ranks if no better AP came for so long that training ends; logs a line."""
        patience, unimproved = self._run.config.system.patience, self._history.unimproved
        ended = 0 < patience <= unimproved
        if ended:
            logger.info(
                "training ends after step %d: %d evaluations in a row brought no AP above %s "
                "(system.patience %d)",
                iteration,
                unimproved,
                metric_text(self._history.highest),
                patience,
            )
        return self._run.ranks.broadcast(ended)


class _History:
    """AP of the evaluations of a run so far.

    Attributes:
        highest: the highest AP; None before the first.
        unimproved: number of evaluations since then, none of which had a higher AP; those without
            an object to find say nothing and do not count.
    """

    def __init__(self) -> None:
        self.highest: float | None = None
        self.unimproved = 0

    def add(self, ap: float | None) -> bool:
        """Adds an evaluation; returns True if its AP is above that of every earlier one."""
        better = self.raise_to(ap)
        if ap is not None:
            self.unimproved = 0 if better else self.unimproved + 1
        return better

    def raise_to(self, ap: float | None) -> bool:
        """Makes an AP the highest if it is above that; returns True if it is."""
        better = ap is not None and (self.highest is None or ap > self.highest)
        if better:
            self.highest = ap
        return better


def _describe(evaluation: Evaluation, images: int) -> str:
    """Line about an evaluation."""
    values = evaluation.metrics
    shown = ", ".join(f"{name} {metric_text(values[name])}" for name in _LOGGED)
    for kind, other in evaluation.by_weights.items():
        if kind != evaluation.weights:
            ap = metric_text(other["AP"])
            shown += f" with the {evaluation.weights} weights, AP {ap} with the {kind} ones"
    seconds = f"{images} images in {evaluation.seconds:.1f} s"
    end = "; the best so far" * evaluation.best
    return f"step {evaluation.iteration}: {shown}; {seconds}{end}"


def _logged_evaluations(run: TrainingRun) -> dict[int, float | None]:
    """AP of the evaluations up to step ``run.start`` that the log has, by their steps."""
    records = read_log(run.directory.log) if run.directory.log.is_file() else []
    return {
        record["iteration"]: record["evaluation"].get("AP")
        for record in records
        if "evaluation" in record and record["iteration"] <= run.start
    }


def _highest_before(run: TrainingRun, start: int) -> float | None:
    """AP of the best weights on the disk, if they were reached by step ``start``."""
    path = run.directory.best
    try:
        meta = read_meta(path) if path.is_file() else None
    except UserError as error:
        logger.warning("%s; these weights are forgotten, and the next ones take their place", error)
        return None
    if meta is None or meta.metrics is None or meta.iteration > start:
        return None
    return meta.metrics["AP"]
