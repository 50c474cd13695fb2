"""Says before a run what it will take: parameters, work, memory, what fits on a device, hours.

    python -m core.tools.plan CornerNet
    python -m core.tools.plan CornerNet --set system.checkpointing=stack
    python -m core.tools.plan CornerNet_Squeeze-shapes --device cpu

Computes a chunk of the config's step on the device a few times. Where that would take too long, or
would not fit, it computes one picture and scales, and says so. Without the data set, pictures of
noise are as good.
"""

import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import torch

from ..cli import script_parser
from ..config.errors import run
from ..config.loading import Config, System, load_config
from ..data.loader import training_loader
from ..data.splits import open_split
from ..distributed.ranks import Ranks
from ..models.detector import Detector
from ..models.device import choose_device
from ..structures import Batch
from ..train.chunks import chunk_sizes, rank_chunks
from ..train.fresh import fresh_detector
from ..train.memory_use import memory_use
from .step_cost import StepCost, measure_step, synthetic_batch

_COCO_CLASSES = 80


def main(words: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = script_parser(__doc__)
    parser.prog = "python -m core.tools.plan"
    parser.add_argument(
        "--seconds",
        type=float,
        default=60,
        metavar="S",
        help="of a chunk that takes longer, one picture is computed (%(default)g)",
    )
    options = parser.parse_args(words)
    config = load_config(options.config, overrides=options.set, config_dir=options.config_dir)
    for line in plan(config, choose_device(options.device), options.seconds):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    return 0


def plan(config: Config, device: torch.device, seconds: float) -> Iterator[str]:
    """The lines of a plan, as they become known.

    Args:
        config: of the run.
        device: where to train.
        seconds: see :func:`core.tools.step_cost.measure_step`.

    Raises:
        UserError: the data set is there and broken, or a setting does not fit.
    """
    system = config.system
    process_bytes = memory_use().get("resident", 0)
    sizes = chunk_sizes(system, 1)
    folder = Path(system.data_dir) / system.dataset_dir
    dataset = open_split(system, config.db, system.train_split) if folder.is_dir() else None
    classes = config.db.categories or _COCO_CLASSES
    if dataset is not None:
        classes = len(dataset.class_names)
    detector, optimizer = fresh_detector(config, classes, device)
    yield from _setting(config, detector, device)
    if dataset is None:
        batch = synthetic_batch(detector.sample, max(sizes), classes)
        origin = f"noise, as there is no folder {folder}"
    else:
        loader = training_loader(
            dataset,
            detector.sample,
            batch_size=max(sizes),
            seed=system.seed,
            workers=0,
            prefetch=1,
        )
        batch, origin = next(iter(loader)), str(dataset.annotation_file)
    yield _line("pictures", f"{_sides(batch)}, {classes} classes: {origin}")
    cost = measure_step(
        detector, optimizer, batch, system, device, seconds=seconds, process_bytes=process_bytes
    )
    yield from _costs(cost, sizes)
    yield from _schedule(cost, system)


def _setting(config: Config, detector: Detector, device: torch.device) -> Iterator[str]:
    system = config.system
    name = f" {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    ways = [system.precision, "compiled" if system.compile else "not compiled"]
    ways.append(f"checkpointing: {system.checkpointing}")
    yield _line("device", f"{device}{name}, {', '.join(ways)}")
    parameters = sum(parameter.numel() for parameter in detector.network.parameters())
    yield _line("network", f"{config.model_name}, {parameters:,} parameters")


def _costs(cost: StepCost, sizes: tuple[int, ...]) -> Iterator[str]:
    """Work, memory and what fits, for the largest chunk."""
    total, chunk = sum(sizes), max(sizes)
    yield _line(
        "a step",
        f"{_count(total, 'picture')} in {_count(len(sizes), 'chunk')}, forward and backward "
        f"{cost.flops * total / 1e9:,.4g} GFLOP ({cost.flops / 1e9:,.4g} a picture)",
    )
    if cost.pictures < chunk:
        yield _line(
            "measured",
            f"one picture, as a chunk of {chunk} would take too long or too much memory; times "
            "and activations below are its own times the number of pictures",
        )
    each = cost.chunk_seconds / cost.pictures
    yield _line("a chunk", f"{_count(chunk, 'picture')}, {each * chunk:.3g} s")
    state = f"{_size(cost.state_bytes)} of weights, gradients and optimiser"
    if cost.activation_bytes is None or cost.room_bytes is None:
        yield _line("memory", f"{state}; this system does not tell what activations take")
        return
    taken = cost.activation_bytes * chunk / cost.pictures
    yield _line("memory", f"{state}, {_size(taken)} of activations a chunk")
    fitting = int(max(0, cost.room_bytes - cost.state_bytes) * chunk / max(1, taken))
    if fitting < chunk:
        yield _line(
            "fits",
            f"not in {_size(cost.room_bytes)}, where {_count(fitting, 'picture')} would; set "
            "smaller system.chunk_sizes, system.checkpointing, or system.precision to bfloat16",
        )
    else:
        yield _line(
            "fits",
            f"{_count(fitting // chunk, 'such chunk')}, {_count(fitting, 'picture')}, in "
            f"{_size(cost.room_bytes)}; a device takes its chunks one after the other",
        )


def _schedule(cost: StepCost, system: System) -> Iterator[str]:
    """Hours of the whole run, by number of devices."""
    yield ""
    yield f"{'devices':>8} {'chunks each':>12} {'seconds a step':>15}   hours for the schedule"
    for world_size in _worlds(system):
        shares = [rank_chunks(system, Ranks(rank, world_size)) for rank in range(world_size)]
        pictures = max(sum(share.sizes) for share in shares)
        step = cost.chunk_seconds * pictures / cost.pictures + cost.update_seconds
        chunks = max(len(share.sizes) for share in shares)
        hours = step * system.max_iter / 3600
        yield f"{world_size:>8} {chunks:>12} {step:>15.4g}   {hours:,.1f}"
    yield f"{system.max_iter:,} steps, without waiting for data or for other devices"


def _worlds(system: System) -> list[int]:
    """Numbers of devices that can share a step: powers of two, and as many as there are chunks."""
    if system.chunk_sizes is None:
        return [world_size for world_size in (1, 2, 4, 8) if system.batch_size % world_size == 0]
    most = len(system.chunk_sizes)
    powers = takewhile(lambda world_size: world_size < most, (2**power for power in range(most)))
    return [*powers, most]


def _sides(batch: Batch) -> str:
    height, width = batch.images.shape[2:]
    return f"{width} x {height}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _size(number: float) -> str:
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 else f"{number / 2**20:.1f} MiB"


def _line(key: str, value: str) -> str:
    return f"{key:10} {value}"


if __name__ == "__main__":
    run(main)
