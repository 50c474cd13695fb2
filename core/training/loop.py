"""The training loop. One step of it: :mod:`core.training.step`."""

import contextlib
from collections.abc import Iterator

from ..config.errors import UserError
from ..distributed import Signals, Stopped, Stream
from ..structures import Batch
from .evaluations import Evaluations
from .failures import NonFiniteLoss
from .freezing import thaws_at
from .graphs import choose_step
from .late_report import LateReport
from .log import RunLog
from .optimizer import set_learning_rate_
from .run import TrainingRun
from .step import validate, warm_up


def train(run: TrainingRun, log: RunLog | None = None) -> None:
    """Trains from step ``run.start + 1`` to step ``system.max_iter``, or to the end of patience.

    Before a snapshot is saved, every loss and every gradient up to it is known to be finite. All
    ranks call this together, and all end at the same step.

    Args:
        run: a run that :func:`core.training.run.prepare` made; its network is trained in place.
        log: log of the run; None on ranks other than the main process.

    Raises:
        Stopped: by Ctrl-C or SIGTERM, or because a loader worker died; all steps were saved.
        UserError: too many images cannot be read; all steps were saved.
        NonFiniteLoss: a loss or a gradient is infinite or not a number; its step was not saved.
    """
    system = run.config.system
    step = choose_step(run)
    report = LateReport(log, run.dataset, run.device, run.ranks)
    evaluations = Evaluations(run) if system.eval_iter else None
    with Signals() as signals, _finishing(run), log or contextlib.nullcontext():
        batches = Stream(run.batches(), run.dataset, signals, run.ranks)
        validation = None
        if run.validation_dataset is not None and system.val_iter:
            validation = Stream(
                run.validation_batches(), run.validation_dataset, signals, run.ranks
            )
        signals.hold_worker_deaths()
        run.network.train()
        done = saved = run.start
        try:
            if evaluations is not None and evaluations.interrupted:
                with report.pausing():
                    report.evaluation(evaluations.evaluate(run.start, signals))
            for iteration in range(run.start + 1, system.max_iter + 1):
                if evaluations is not None and evaluations.exhausted:
                    break
                with report.waiting_for_data():
                    batch = batches.take()
                _prepare_network_(run, batch, iteration)
                learning_rate = set_learning_rate_(run.optimizer, iteration, system)
                terms, gradient_norm = step(batch, iteration)
                report.step(iteration, terms, gradient_norm, learning_rate, batch.index)
                done = iteration
                if validation is not None and iteration % system.val_iter == 0:
                    report.validation(iteration, validate(run, validation.take()))
                if iteration % system.snapshot == 0 or iteration == system.max_iter:
                    report.flush()
                    run.save(iteration)
                    saved = iteration
                if evaluations is not None and iteration % system.eval_iter == 0:
                    with report.pausing():
                        report.evaluation(evaluations.evaluate(iteration, signals))
            if saved < done:  # patience has ended
                run.save(done)
        except (Stopped, UserError):
            report.flush()
            if saved < done:
                run.save(done)
            raise


def _prepare_network_(run: TrainingRun, batch: Batch, iteration: int) -> None:
    """Wraps the network anew where parts of it begin to train, and compiles what is new."""
    system = run.config.system
    starts, thaws = iteration == run.start + 1, thaws_at(iteration, system)
    if thaws and not starts:
        run.wrap_(iteration)
    if system.compile and (starts or thaws):
        warm_up(run, batch, iteration)


@contextlib.contextmanager
def _finishing(run: TrainingRun) -> Iterator[None]:
    """Waits for the last snapshot at an end that all ranks reach, with signals still held back."""
    try:
        yield
    except (Stopped, UserError, NonFiniteLoss):
        run.finish()
        raise
    run.finish()
