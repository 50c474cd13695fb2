"""The training loop. One step is one screen, one run is another; nothing else stands between.

A step is defined by the config, not by the device: ``chunk_sizes`` cut the batch into chunks. Each
chunk has its own loss and its own batch-norm statistics, the step minimises the mean of the chunks'
losses, and the running statistics are those of the first chunk, as in the reference's data
parallelism. Without ``chunk_sizes`` the batch is one chunk.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.batch import Batch
from core.config import System
from core.dbs.coco import CocoDetection
from core.errors import UserError
from core.guards import Stopped
from core.late_report import LateReport
from core.log import RunLog
from core.models.detector import Detector
from core.sample.unreadable import UnreadablePictures
from core.schedule import learning_rate_at, set_learning_rate_
from core.signals import Signals
from core.targets.color import apply_color

_DYING = 0.2  # seconds; a worker closes its pipes a moment before its death is told


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
    log: RunLog,
) -> None:
    """Trains from step ``start + 1`` to step ``system.max_iter``.

    Before a snapshot is saved, every loss up to it is known to be finite.

    Args:
        detector: its network is on ``device`` and trained in place.
        optimizer: of the network's parameters.
        batches: one a step, without end.
        validation_batches: one every ``val_iter`` steps, without end; None: no validation.
        start: steps behind these weights.
        system: schedule, chunks and precision.
        device: where the network is.
        database: the training split.
        save: saves a snapshot of the number of steps that it is given.
        log: reports every step.

    Raises:
        Stopped: by Ctrl-C or SIGTERM, or because a loader worker died; all steps were saved.
        UserError: too many pictures cannot be read; all steps were saved.
        NonFiniteLoss: see there.
    """
    network = detector.network.train()
    unreadable = UnreadablePictures(database)
    done, saved = start, start
    report = LateReport(log, database)
    schedule = (system.learning_rate, system.stepsize, system.decay_rate)
    with Signals() as signals, log:
        stream = iter(batches)
        validation = iter(() if validation_batches is None else validation_batches)
        signals.hold_worker_deaths()
        try:
            for iteration in range(start + 1, system.max_iter + 1):
                batch = _next_batch(stream, signals)
                unreadable.note(batch)
                rate = learning_rate_at(iteration, *schedule)
                set_learning_rate_(optimizer, rate)
                terms = train_step(detector, optimizer, batch, system, device)
                report.step(iteration, terms, batch, rate)
                done = iteration
                if validation_batches is not None and iteration % system.val_iter == 0:
                    report.flush()
                    batch = _next_batch(validation, signals)
                    log.validation(iteration, validate(detector, batch, system, device))
                    network.train()
                if iteration % system.snapshot == 0 or iteration == system.max_iter:
                    report.flush()
                    save(iteration)
                    saved = iteration
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
) -> dict[str, Tensor]:
    """Makes one update of the weights, in place.

    Returns:
        The loss terms, each the mean over the chunks, on ``device``.
    """
    optimizer.zero_grad(set_to_none=True)
    chunks = _chunks(batch.to(device, non_blocking=True), system.chunk_sizes)
    every_terms = []
    for number, chunk in enumerate(chunks):
        with frozen_running_statistics(detector.network if number else nn.Identity()):
            terms = _loss_terms(detector, chunk, system)
        torch.stack(list(terms.values())).sum().div(len(chunks)).backward()
        every_terms.append(terms)
    optimizer.step()
    return _mean(every_terms)


@torch.no_grad()
def validate(
    detector: Detector, batch: Batch, system: System, device: torch.device
) -> dict[str, float]:
    """The loss terms of one batch, by the running statistics; leaves the network in eval mode.

    In evaluation mode a network gives its last stack only, and the loss is of that one.
    """
    detector.network.eval()
    chunks = _chunks(batch.to(device, non_blocking=True), system.chunk_sizes)
    terms = _mean([_loss_terms(detector, chunk, system) for chunk in chunks])
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


def _chunks(batch: Batch, sizes: tuple[int, ...] | None) -> list[Batch]:
    if sizes is None:
        return [batch]
    ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    return [batch[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def _loss_terms(detector: Detector, chunk: Batch, system: System) -> dict[str, Tensor]:
    device_type = chunk.images.device.type
    targets = detector.targets(chunk)  # first: they wait for the device, which is idle now
    with torch.autocast(device_type, torch.bfloat16, enabled=system.precision == "bfloat16"):
        images = apply_color(chunk.images, chunk.color)
        outputs = detector.network(images, *detector.network_inputs(targets))
    return detector.losses(outputs, targets)


def _mean(every_terms: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {
        name: torch.stack([terms[name].detach() for terms in every_terms]).mean()
        for name in every_terms[0]
    }


def _next_batch(stream: Iterator[Batch], signals: Signals) -> Batch:
    """Takes the next batch; looks before and after it whether somebody asked for the end."""
    death, failure, batch = signals.worker_death(), None, None
    if death is None and not signals.asked:
        try:
            batch = next(stream)
        except UserError:
            raise
        except Exception as error:
            time.sleep(_DYING)
            death, failure = signals.worker_death(), error
            if death is None and str(error).startswith("DataLoader worker (pid"):
                death = str(error).strip()
    if signals.asked:  # sent to all processes, the signal ended the workers too
        raise Stopped(f"{signals.asked} was received")
    if death is not None:
        raise Stopped(f"the loader failed: {death}")
    if batch is None:
        raise Stopped(f"the loader failed: {failure}") from failure
    return batch
