"""One step of training: forward, losses and backward of each chunk, then one update.

A step is defined by the config, not by the devices: ``chunk_sizes`` cut the batch into chunks. Each
chunk has its own loss, batch-norm statistics and random numbers; the step minimises the mean of the
chunks' losses; and the running statistics are those of the first chunk, as in the reference's data
parallelism. Several ranks divide the chunks among them (:mod:`.chunks`) and compute the
same step.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from ..data.color import apply_color
from ..distributed import ONE_PROCESS, Ranks, no_gradient_sync
from ..structures import Batch
from ..torch_compat import BatchNorm
from .build import TrainingState
from .chunks import RankChunks
from .freezing import freeze_


def train_step(
    run: TrainingState, batch: Batch, iteration: int = 1, update: bool = True
) -> tuple[dict[str, Tensor], Tensor]:
    """Makes one update of the weights, and of their average if there is one, in place.

    Args:
        run: detector, optimizer, average and settings; its network is in training mode.
        batch: this rank's rows of the step's batch.
        iteration: number of the step, from 1.
        update: False adds gradients to those that there are: they are not exchanged, and no weight
            changes.

    Returns:
        terms: the loss terms, each the mean over the chunks of all ranks, on the run's device.
        gradient_norm: L2 norm of all gradients together before clipping, on the same device.
    """
    detector, network, system = run.detector, run.network, run.config.system
    chunks = run.chunks
    if update:
        run.optimizer.zero_grad(set_to_none=True)
    freeze_(detector.stages(), iteration, system)
    batch = batch.to(run.device)
    every_terms = []
    # What a chunk casts to half precision, the others find: weights are cast once a step.
    with torch.autocast(run.device.type, enabled=False):
        for number, chunk in chunks.split(batch):
            if not is_recorded(run.device):  # networks may draw samples
                torch.manual_seed(chunk_seed(system.seed, iteration, number))
            with contextlib.ExitStack() as context:
                if number > chunks.first:  # of the ranks' first chunks, those of rank 0 count
                    context.enter_context(frozen_running_statistics(network))
                if number < chunks.last or not update:
                    context.enter_context(no_gradient_sync(network))
                targets = detector.targets(chunk)
                with run.autocast():
                    images = apply_color(chunk.images, chunk.color)
                    outputs = network(images, *detector.network_inputs(targets))
                terms = detector.losses(outputs, targets)
                del images, targets, outputs  # the backward pass has what it needs in its graph
                loss = torch.stack(list(terms.values())).sum()
                loss.div(chunks.total / run.ranks.world_size).backward()  # ranks average gradients
            every_terms.append(terms)
    norm = _clipped_norm(network.parameters(), system.clip_norm)
    if update:
        run.optimizer.step()
        if run.average is not None:
            run.average.update_()
    return _mean(every_terms, chunks, run.ranks), norm


def _clipped_norm(parameters: Iterable[nn.Parameter], limit: float | None) -> Tensor:
    """Scales gradients down to a norm, if they have a larger one; returns theirs before."""
    if limit is not None:
        return nn.utils.clip_grad_norm_(parameters, limit)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return nn.utils.get_total_norm(gradients)


def warm_up(run: TrainingState, batch: Batch, iteration: int = 1) -> None:
    """Computes a step without an update, so that each of several ranks compiles in its own time.

    A patient collective: ranks that wait in a step would end the run after ``system.dist_timeout``.

    Args:
        run, batch, iteration: as for :func:`train_step`.
    """
    if run.ranks.world_size == 1:
        return
    buffers = [(buffer, buffer.clone()) for buffer in run.network.buffers()]
    sizes = run.chunks.sizes
    system = replace(run.config.system, chunk_sizes=sizes, batch_size=sum(sizes))
    alone = replace(run, config=replace(run.config, system=system), ranks=ONE_PROCESS)
    train_step(alone, batch, iteration, update=False)
    for buffer, before in buffers:
        buffer.copy_(before)
    run.ranks.barrier()


@torch.no_grad()
def validate(run: TrainingState, batch: Batch) -> dict[str, float]:
    """Computes the loss terms of one batch with the running statistics of rank 0.

    In evaluation mode a network gives its last stack only, and the loss is of that one.

    Args:
        run: detector and settings; its network is in training mode before and after.
        batch: this rank's rows of the validation batch.
    """
    detector, network = run.detector, run.network
    run.ranks.broadcast_(network.buffers())
    network.eval()
    every_terms = []
    for _, chunk in run.chunks.split(batch.to(run.device)):
        targets = detector.targets(chunk)
        with run.autocast():
            images = apply_color(chunk.images, chunk.color)
            outputs = network(images, *detector.network_inputs(targets))
        every_terms.append(detector.losses(outputs, targets))
    network.train()
    terms = _mean(every_terms, run.chunks, run.ranks)
    return {name: value.item() for name, value in terms.items()}


@contextlib.contextmanager
def frozen_running_statistics(network: nn.Module) -> Iterator[None]:
    """Keeps batch norms in training mode from updating their running statistics."""
    norms = [
        module
        for module in network.modules()
        if isinstance(module, BatchNorm) and module.track_running_stats
    ]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def is_recorded(device: torch.device) -> bool:
    """True if what is launched now becomes a part of a CUDA graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def chunk_seed(*numbers: int) -> int:
    """Seed of a chunk's random numbers, from the run's seed, the step and the chunk's number."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _mean(every_terms: list[dict[str, Tensor]], chunks: RankChunks, ranks: Ranks) -> dict:
    """Averages loss terms over the chunks of all ranks."""
    values = torch.stack([torch.stack(list(terms.values())).detach() for terms in every_terms])
    means = ranks.sum_(values.sum(0).div(chunks.total))
    return dict(zip(every_terms[0], means.unbind(), strict=True))
