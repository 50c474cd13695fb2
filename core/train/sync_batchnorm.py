"""Batch norms whose statistics are those of all GPUs' pictures, by PyTorch's SyncBatchNorm."""

import torch
from torch import nn

from ..config.errors import UserError
from ..config.loading import System
from ..distributed.ranks import Ranks
from .chunks import chunk_counts


def synchronise_batch_norms_(
    network: nn.Module, device: torch.device, system: System, ranks: Ranks
) -> None:
    """Makes batch norms take the statistics of the chunks that all ranks compute at a time.

    A step then depends on the number of ranks. The keys of the weights stay as they are.

    Args:
        network: its batch norms are replaced.
        device: where it runs.
        system: its chunks.
        ranks: those that train together; one alone has nothing to synchronise.

    Raises:
        UserError: PyTorch cannot do it here, the ranks have different numbers of chunks, or the
            network is computed in a way in which nobody has seen its collectives stay in step.
    """
    if device.type == "cpu":
        raise UserError("system.sync_batchnorm: PyTorch has it for GPUs alone, not for CPUs")
    for name, value in (("compile", system.compile), ("checkpointing", system.checkpointing)):
        if value not in (False, "none"):
            raise UserError(
                f"system.sync_batchnorm: not together with system.{name} {value}, where the ranks "
                "might wait for one another for ever; leave one of them out"
            )
    counts = chunk_counts(system, ranks.world_size)
    if len(set(counts)) > 1:
        raise UserError(
            f"system.sync_batchnorm: of the {sum(counts)} chunks a step, {ranks.world_size} "
            "processes have different numbers and would wait for one another; start a number that "
            "divides it"
        )
    if ranks.world_size > 1:
        nn.SyncBatchNorm.convert_sync_batchnorm(network, ranks.steps)
