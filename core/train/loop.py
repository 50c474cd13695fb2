"""The training loop: what a run does step after step. What a step is: :mod:`core.train.step`."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch

from ..config.errors import UserError
from ..config.loading import System
from ..data.coco import CocoDetection
from ..distributed.agreement import Stream
from ..distributed.ranks import ONE_PROCESS, Ranks
from ..distributed.signals import Signals
from ..evaluation.while_training import Evaluation
from ..models.detector import Detector
from ..structures import Batch
from .guards import NonFiniteLoss, Stopped
from .late_report import LateReport
from .log import RunLog
from .optimizer import learning_rate_at, set_learning_rate_
from .step import train_step, validate, warm_up

# Evaluates after so many steps; see core.evaluation.while_training.
Evaluate = Callable[[int, Callable[[], str | None]], Evaluation | None]


def train(
    detector: Detector,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    validation_batches: Iterable[Batch] | None,
    *,
    start: int,
    system: System,
    device: torch.device,
    dataset: CocoDetection,
    save: Callable[[int], object],
    log: RunLog | None,
    ranks: Ranks = ONE_PROCESS,
    validation_dataset: CocoDetection | None = None,
    evaluate: Evaluate | None = None,
    evaluate_first: bool = False,
    finish: Callable[[], object] = lambda: None,
) -> None:
    """Trains from step ``start + 1`` to step ``system.max_iter``.

    Before a snapshot is saved, every loss and every gradient up to it is known to be finite. All
    ranks call this together, and all end at the same step.

    Args:
        detector: its network is on ``device`` and trained in place.
        optimizer: of the network's parameters.
        batches: this rank's rows of one a step, without end.
        validation_batches: the same of one every ``val_iter`` steps, or None.
        start: steps behind these weights.
        system: schedule, chunks and precision.
        device: where the network is.
        dataset: the training split.
        save: saves a snapshot of the number of steps that it is given; called on every rank.
        log: reports every step; None: another rank does.
        ranks: this process among those that train together.
        validation_dataset: the split of ``validation_batches``, where there is one.
        evaluate: evaluates the network every ``eval_iter`` steps; called on every rank with the
            number of steps, and what gives the name of a signal that asked for the end.
        evaluate_first: evaluate also before the first step, as the run that came to it did not.
        finish: called on every rank once no step follows, while signals are still held back; not
            where one rank ends alone.

    Raises:
        Stopped: by Ctrl-C or SIGTERM, or because a loader worker died; all steps were saved.
        UserError: too many pictures cannot be read; all steps were saved.
        NonFiniteLoss: see there.
    """
    detector = replace(detector, network=ranks.parallel(detector.network).train())
    report = LateReport(log, dataset, device, ranks)
    with Signals() as signals, _finishing(finish), log or contextlib.nullcontext():
        stream, validation = Stream(batches, dataset, signals, ranks), None
        if validation_batches is not None:
            split = validation_dataset or dataset
            validation = Stream(validation_batches, split, signals, ranks)
        signals.hold_worker_deaths()
        rest = (system, device, ranks, report, signals, stream, validation, save, evaluate)
        _Loop(detector, optimizer, *rest).run(start, evaluate_first)


@dataclass
class _Loop:
    """A run at work: what :func:`train` was given, and what it made of it."""

    detector: Detector
    optimizer: torch.optim.Optimizer
    system: System
    device: torch.device
    ranks: Ranks
    report: LateReport
    signals: Signals
    stream: Stream
    validation: Stream | None
    save: Callable[[int], object]
    evaluate: Evaluate | None

    def run(self, start: int, evaluate_first: bool) -> None:
        """Makes the steps after ``start``; where an end is asked for, the last one is saved."""
        done = self.saved = start
        try:
            if evaluate_first:
                self._evaluate(start)
            for iteration in range(start + 1, self.system.max_iter + 1):
                self._step(iteration, first=iteration == start + 1)
                done = iteration
                self._look_back(iteration)
        except (Stopped, UserError):
            self.report.flush()
            if self.saved < done:
                self.save(done)
            raise

    def _step(self, iteration: int, first: bool) -> None:
        system = self.system
        with self.report.waiting():
            batch = self.stream.take()
        if system.compile and first:
            warm_up(self.detector, batch, system, self.device, self.ranks)
        schedule = (system.learning_rate, system.stepsize, system.decay_rate)
        rate = learning_rate_at(iteration, *schedule)
        set_learning_rate_(self.optimizer, rate)
        told = train_step(
            self.detector, self.optimizer, batch, system, self.device, iteration, self.ranks
        )
        self.report.step(iteration, *told, batch, rate)

    def _look_back(self, iteration: int) -> None:
        """Validates, saves and evaluates what the steps have made, where it is due."""
        system = self.system
        if self.validation is not None and iteration % system.val_iter == 0:
            self.report.flush()
            batch = self.validation.take()
            terms = validate(self.detector, batch, system, self.device, self.ranks)
            self.report.validation(iteration, terms)
            self.detector.network.train()
        if iteration % system.snapshot == 0 or iteration == system.max_iter:
            self.report.flush()
            self.save(iteration)
            self.saved = iteration
        if self.evaluate is not None and iteration % system.eval_iter == 0:
            self._evaluate(iteration)

    def _evaluate(self, iteration: int) -> None:
        assert self.evaluate is not None
        self.report.flush()
        with self.report.pausing():
            evaluation = self.evaluate(iteration, lambda: self.signals.asked)
        self.report.evaluation(iteration, evaluation)


@contextlib.contextmanager
def _finishing(finish: Callable[[], object]) -> Iterator[None]:
    """Calls ``finish`` at an end that all ranks come to."""
    try:
        yield
    except (Stopped, UserError, NonFiniteLoss):
        finish()
        raise
    finish()
