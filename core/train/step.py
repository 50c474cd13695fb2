"""One step of training: the chunks of the config, each with what is its own, and one update.

A step is defined by the config, not by the devices: ``chunk_sizes`` cut the batch into chunks. Each
chunk has its own loss, batch-norm statistics and random numbers, the step minimises the mean of the
chunks' losses, and the running statistics are those of the first chunk, as in the reference's data
parallelism. Several ranks share the chunks out (:mod:`core.train.chunks`), and compute the same
step.
"""

import contextlib
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..config.loading import System
from ..distributed.ranks import ONE_PROCESS, Ranks, no_gradient_sync
from ..models.detector import Detector
from ..structures import Batch
from ..targets.color import apply_color
from .chunks import RankChunks, rank_chunks


def train_step(
    detector: Detector,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    system: System,
    device: torch.device,
    iteration: int = 1,
    ranks: Ranks = ONE_PROCESS,
) -> tuple[dict[str, Tensor], Tensor]:
    """Makes one update of the weights, in place.

    Args:
        detector, optimizer, system, device: see :func:`core.train.loop.train`.
        batch: this rank's rows of the step's batch.
        iteration: number of the step.
        ranks: this process among those that train together.

    Returns:
        terms: of the loss, each the mean over the chunks of all ranks, on ``device``.
        gradient_norm: the L2 norm of the gradients together, before they are clipped, on
            ``device``.
    """
    optimizer.zero_grad(set_to_none=True)
    share = rank_chunks(system, ranks)
    batch = batch.to(device, non_blocking=True)
    every_terms = add_gradients_(detector, batch, system, iteration, share, ranks)
    weights, limit = detector.network.parameters(), system.clip_norm
    norm = nn.utils.clip_grad_norm_(weights, math.inf if limit is None else limit)
    optimizer.step()
    return _mean(every_terms, share, ranks), norm


def add_gradients_(
    detector: Detector,
    batch: Batch,
    system: System,
    iteration: int,
    share: RankChunks,
    ranks: Ranks,
) -> list[dict[str, Tensor]]:
    """Adds the gradients of this rank's chunks to the weights'.

    Args:
        detector, system: see :func:`core.train.loop.train`.
        batch: on the network's device.
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
                context.enter_context(no_gradient_sync(detector.network))
            terms = _loss_terms(detector, chunk, system)
            loss = torch.stack(list(terms.values())).sum()
            loss.div(share.total / ranks.world_size).backward()  # ranks' gradients are averaged
        every_terms.append(terms)
    return every_terms


def warm_up(
    detector: Detector, batch: Batch, system: System, device: torch.device, ranks: Ranks
) -> None:
    """Computes a step without taking it, so that each of several ranks compiles in its own time.

    A patient collective: others in a step would end the run after ``system.dist_timeout``.
    """
    if ranks.world_size == 1:
        return
    buffers = [(buffer, buffer.clone()) for buffer in detector.network.buffers()]
    with no_gradient_sync(detector.network):
        add_gradients_(detector, batch.to(device), system, 1, rank_chunks(system, ranks), ranks)
    for buffer, before in buffers:
        buffer.copy_(before)
    ranks.barrier()


@torch.no_grad()
def validate(
    detector: Detector,
    batch: Batch,
    system: System,
    device: torch.device,
    ranks: Ranks = ONE_PROCESS,
) -> dict[str, float]:
    """The loss terms of one batch, by the running statistics; leaves the network in eval mode.

    In evaluation mode a network gives its last stack only, and the loss is of that one.
    """
    ranks.broadcast_(detector.network.buffers())
    detector.network.eval()
    share = rank_chunks(system, ranks)
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


def _chunks(batch: Batch, share: RankChunks) -> Iterator[tuple[int, Batch]]:
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


def _mean(
    every_terms: list[dict[str, Tensor]], share: RankChunks, ranks: Ranks
) -> dict[str, Tensor]:
    """The mean of the terms over the chunks of all ranks."""
    values = torch.stack([torch.stack(list(terms.values())).detach() for terms in every_terms])
    means = ranks.sum_(values.sum(0).div(share.total))
    return dict(zip(every_terms[0], means.unbind(), strict=True))
