"""The training loop. One step is one screen, one run is another; nothing else stands between.

A step is defined by the config, not by the devices: ``chunk_sizes`` cut the batch into chunks. Each
chunk has its own loss, batch-norm statistics and random numbers, the step minimises the mean of the
chunks' losses, and the running statistics are those of the first chunk, as in the reference's data
parallelism. Several ranks share the chunks out (:mod:`core.share`), and compute the same step.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.agreement import next_batch
from core.batch import Batch
from core.config import System
from core.dbs.coco import CocoDetection
from core.distributed import ALONE, Ranks, apart
from core.errors import UserError
from core.evaluation.while_training import Evaluation
from core.guards import NonFiniteLoss, Stopped
from core.late_report import LateReport
from core.log import RunLog
from core.models.detector import Detector
from core.sample.unreadable import UnreadablePictures
from core.schedule import learning_rate_at, set_learning_rate_
from core.share import Share, share_of
from core.signals import Signals
from core.targets.color import apply_color

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
    database: CocoDetection,
    save: Callable[[int], object],
    log: RunLog | None,
    ranks: Ranks = ALONE,
    validation_database: CocoDetection | None = None,
    evaluate: Evaluate | None = None,
    finish: Callable[[], object] = lambda: None,
) -> None:
    """Trains from step ``start + 1`` to step ``system.max_iter``.

    Before a snapshot is saved, every loss up to it is known to be finite. All ranks call this
    together, and all end at the same step.

    Args:
        detector: its network is on ``device`` and trained in place.
        optimizer: of the network's parameters.
        batches: this rank's rows of one a step, without end.
        validation_batches: the same of one every ``val_iter`` steps; None: no validation.
        start: steps behind these weights.
        system: schedule, chunks and precision.
        device: where the network is.
        database: the training split.
        save: saves a snapshot of the number of steps that it is given; called on every rank.
        log: reports every step; None: another rank does.
        ranks: this process among those that train together.
        validation_database: the split of ``validation_batches``, where there is one.
        evaluate: evaluates the network every ``eval_iter`` steps; called on every rank with the
            number of steps, and what gives the name of a signal that asked for the end.
        finish: called on every rank once no step follows, while signals are still held back; not
            where one rank ends alone.

    Raises:
        Stopped: by Ctrl-C or SIGTERM, or because a loader worker died; all steps were saved.
        UserError: too many pictures cannot be read; all steps were saved.
        NonFiniteLoss: see there.
    """
    detector = replace(detector, network=ranks.parallel(detector.network).train())
    unreadable = UnreadablePictures(database, tell=ranks.first)
    validation_unreadable = UnreadablePictures(validation_database or database, tell=ranks.first)
    done, saved = start, start
    report = LateReport(log, database, device, ranks)
    schedule = (system.learning_rate, system.stepsize, system.decay_rate)
    with Signals() as signals, _finishing(finish), log or contextlib.nullcontext():
        stream = iter(batches)
        validation = iter(() if validation_batches is None else validation_batches)
        signals.hold_worker_deaths()
        try:
            for iteration in range(start + 1, system.max_iter + 1):
                with report.waiting():
                    batch = next_batch(stream, signals, ranks)
                unreadable.note(batch)
                if system.compile and iteration == start + 1:
                    _rehearse(detector, batch, system, device, ranks)
                rate = learning_rate_at(iteration, *schedule)
                set_learning_rate_(optimizer, rate)
                told = train_step(detector, optimizer, batch, system, device, iteration, ranks)
                report.step(iteration, *told, batch, rate)
                done = iteration
                if validation_batches is not None and iteration % system.val_iter == 0:
                    report.flush()
                    batch = next_batch(validation, signals, ranks)
                    validation_unreadable.note(batch)
                    report.validation(iteration, validate(detector, batch, system, device, ranks))
                    detector.network.train()
                if iteration % system.snapshot == 0 or iteration == system.max_iter:
                    report.flush()
                    save(iteration)
                    saved = iteration
                if evaluate is not None and iteration % system.eval_iter == 0:
                    report.flush()
                    report.evaluation(iteration, evaluate(iteration, lambda: signals.asked))
        except (Stopped, UserError):
            report.flush()
            if saved < done:
                save(done)
            raise


def train_step(
    detector: Detector,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    system: System,
    device: torch.device,
    iteration: int = 1,
    ranks: Ranks = ALONE,
) -> tuple[dict[str, Tensor], Tensor]:
    """Makes one update of the weights, in place.

    Returns:
        terms: of the loss, each the mean over the chunks of all ranks, on ``device``.
        gradient_norm: the L2 norm of the gradients together, before they are clipped, on
            ``device``.
    """
    optimizer.zero_grad(set_to_none=True)
    share = share_of(system, ranks)
    batch = batch.to(device, non_blocking=True)
    every_terms = add_gradients_(detector, batch, system, iteration, share, ranks)
    weights, limit = detector.network.parameters(), system.clip_norm
    norm = nn.utils.clip_grad_norm_(weights, math.inf if limit is None else limit)
    optimizer.step()
    return _mean(every_terms, share, ranks), norm


def add_gradients_(
    detector: Detector, batch: Batch, system: System, iteration: int, share: Share, ranks: Ranks
) -> list[dict[str, Tensor]]:
    """Adds the gradients of this rank's chunks to the weights'.

    Args:
        detector, batch, system: see :func:`train`; the batch is on the network's device.
        iteration: number of the step.
        share: what this rank computes of it.
        ranks: this process among those that train together.

    Returns:
        the loss terms of each chunk.
    """
    every_terms = []
    for number, chunk in _chunks(batch, share):
        torch.manual_seed(_seed(system.seed, iteration, number))  # networks may draw samples
        with contextlib.ExitStack() as context:
            if number > share.first:  # of the ranks' first chunks, those of rank 0 count
                context.enter_context(frozen_running_statistics(detector.network))
            if number < share.last:
                context.enter_context(apart(detector.network))
            terms = _loss_terms(detector, chunk, system)
            loss = torch.stack(list(terms.values())).sum()
            loss.div(share.total / ranks.world).backward()  # ranks' gradients are averaged
        every_terms.append(terms)
    return every_terms


def _rehearse(
    detector: Detector, batch: Batch, system: System, device: torch.device, ranks: Ranks
) -> None:
    """Computes a step without taking it, so that each of several ranks compiles in its own time.

    A patient collective: others in a step would end the run after ``system.dist_timeout``.
    """
    if ranks.world == 1:
        return
    buffers = [(buffer, buffer.clone()) for buffer in detector.network.buffers()]
    with apart(detector.network):
        add_gradients_(detector, batch.to(device), system, 1, share_of(system, ranks), ranks)
    for buffer, before in buffers:
        buffer.copy_(before)
    ranks.barrier()


@torch.no_grad()
def validate(
    detector: Detector, batch: Batch, system: System, device: torch.device, ranks: Ranks = ALONE
) -> dict[str, float]:
    """The loss terms of one batch, by the running statistics; leaves the network in eval mode.

    In evaluation mode a network gives its last stack only, and the loss is of that one.
    """
    ranks.copy_from_first_(detector.network.buffers())
    detector.network.eval()
    share = share_of(system, ranks)
    chunks = _chunks(batch.to(device, non_blocking=True), share)
    terms = _mean([_loss_terms(detector, chunk, system) for _, chunk in chunks], share, ranks)
    return {name: value.item() for name, value in terms.items()}


@contextlib.contextmanager
def frozen_running_statistics(network: nn.Module) -> Iterator[None]:
    """Within it, batch norms in training mode forget the statistics of a batch after its use."""
    norms = [
        module
        for module in network.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@contextlib.contextmanager
def _finishing(finish: Callable[[], object]) -> Iterator[None]:
    """Calls ``finish`` at an end that all ranks come to."""
    try:
        yield
    except (Stopped, UserError, NonFiniteLoss):
        finish()
        raise
    finish()


def _chunks(batch: Batch, share: Share) -> Iterator[tuple[int, Batch]]:
    """This rank's chunks by their numbers in the step."""
    end = 0
    for number, size in enumerate(share.sizes, share.first):
        end += size
        yield number, batch[end - size : end]


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _loss_terms(detector: Detector, chunk: Batch, system: System) -> dict[str, Tensor]:
    device_type = chunk.images.device.type
    targets = detector.targets(chunk)  # first: they wait for the device, which is idle now
    with torch.autocast(device_type, torch.bfloat16, enabled=system.precision == "bfloat16"):
        images = apply_color(chunk.images, chunk.color)
        outputs = detector.network(images, *detector.network_inputs(targets))
    return detector.losses(outputs, targets)


def _mean(every_terms: list[dict[str, Tensor]], share: Share, ranks: Ranks) -> dict[str, Tensor]:
    """The mean of the terms over the chunks of all ranks."""
    values = torch.stack([torch.stack(list(terms.values())).detach() for terms in every_terms])
    means = ranks.sum_(values.sum(0).div(share.total))
    return dict(zip(every_terms[0], means.unbind(), strict=True))
