"""What a training run is about to do, in a few lines for whoever started it."""

import torch

from ..checkpoint import snapshot as checkpoint
from ..models.device import slow_in_bfloat16
from .chunks import chunk_counts
from .run import Run


def describe(run: Run) -> list[str]:
    """What a run is about to do, line by line."""
    system = run.config.system
    parameters = sum(parameter.numel() for parameter in run.detector.network.parameters())
    name = torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else ""
    chunks = f" in chunks of {list(system.chunk_sizes)}" if system.chunk_sizes else ""
    lines = [
        f"device: {run.device} {name}".rstrip() + f", {system.precision}",
        *_shares(run),
        f"network: {run.config.model_name}, {parameters:,} parameters",
        f"steps: {run.start + 1} to {system.max_iter}, {system.batch_size} pictures each{chunks}; "
        f"a snapshot every {system.snapshot}",
        f"snapshots and log: {run.folder}",
    ]
    if system.precision == "bfloat16" and slow_in_bfloat16(run.device):
        lines.append(
            "note: this processor has no instructions for bfloat16 (AVX-512 or AMX); "
            "--set system.precision=float32 trains several times faster"
        )
    newest = checkpoint.newest_snapshot(system.cache_dir, run.config.name)
    if newest is not None and newest[1] > run.start:
        lines.append(
            f"note: {newest[0]} is of an earlier run; this one overwrites snapshots as it comes to "
            f"their iterations (--iter {newest[1]} goes on from there instead)"
        )
    return lines


def _shares(run: Run) -> list[str]:
    """How the ranks share a step, in a line; none for one process."""
    world_size = run.ranks.world_size
    if world_size == 1:
        return []
    counts = chunk_counts(run.config.system, world_size)
    each = ", ".join(map(str, counts)) if len(set(counts)) > 1 else f"{counts[0]} each"
    return [f"processes: {world_size} share the {sum(counts)} chunks of a step: {each}"]
