"""Measures a training step and says what fits on the device and how long a run takes.

    cornerkit plan CornerNet
    cornerkit plan CornerNet --set system.checkpointing=stack
    cornerkit plan CornerNet_Squeeze-shapes --device cpu

Computes a chunk of the config's step on the device a few times. Where that would take too long, or
would not fit, it computes one image, multiplies, and says so. Without the dataset, it computes
images of noise, which cost the same. Stages that are frozen for some steps train in all that it
computes. Where one device alone computes its steps as CUDA graphs, so does the plan; a graph holds
as much memory as a step without it takes at its peak.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from ..cli import command_parser
from ..config.errors import UserError
from ..config.loading import Config, load_config
from ..config.schema import System
from ..data.loader import SampleFunction, batch_loader
from ..data.splits import open_split
from ..distributed import Ranks
from ..models.device import choose_device
from ..structures import Batch, collate
from ..torch_compat import tensors_in
from ..training.build import TrainingState, build_for_training
from ..training.chunks import chunk_sizes, rank_chunks
from ..training.freezing import thawed
from ..training.graphs import FIRST_STEPS, choose_step, uses_graphs
from ..training.memory_use import Peak, memory_use
from ..training.step import train_step

_COCO_CLASSES = 80
_NOISE_SIZE = (480, 640)  # height and width of an image of noise, in pixels
_NOISE_OBJECTS = 8
_ROUNDS = 5  # most times that a chunk is computed


@dataclass(frozen=True)
class StepCost:
    """Time and memory of a step, as measured.

    Attributes:
        images: number of images of the chunk that was computed.
        flops: floating-point operations of one image, forward and backward, recomputed ones
            included; a multiplication and an addition are two.
        chunk_seconds: seconds of the chunk, forward and backward, without CUDA graphs.
        update_seconds: seconds of the optimizer's step.
        state_bytes: bytes of weights, buffers, gradients and the optimizer's state.
        activation_bytes: peak of the memory that the chunk took besides; None if the system does
            not report it.
        available_bytes: memory of the device for both; None if the system does not report it.
        graph_seconds: seconds of the chunk in a CUDA graph; None where steps are not graphs.
    """

    images: int
    flops: int
    chunk_seconds: float
    update_seconds: float
    state_bytes: int
    activation_bytes: int | None
    available_bytes: int | None
    graph_seconds: float | None = None


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit code."""
    parser = command_parser("plan", __doc__)
    parser.add_argument(
        "--seconds",
        type=float,
        default=60,
        metavar="S",
        help="limit for a chunk; if it takes longer, one image is computed (%(default)g)",
    )
    options = parser.parse_args(argv)
    config = load_config(options.config, overrides=options.set, config_dir=options.config_dir)
    for line in plan(config, choose_device(options.device), options.seconds):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    return 0


def plan(config: Config, device: torch.device, seconds: float) -> Iterator[str]:
    """Yields the lines of a plan as soon as each is known.

    Args:
        config: config of the run.
        device: device to train on.
        seconds: limit of :func:`measure_step`.

    Raises:
        UserError: the dataset is there and broken, or a setting does not fit.
    """
    config = thawed(config)
    system = config.system
    process_bytes = memory_use().get("resident", 0)
    sizes = chunk_sizes(system, 1)
    folder = Path(system.data_dir) / system.dataset_dir
    dataset = open_split(system, config.db, system.train_split) if folder.is_dir() else None
    classes = config.db.categories or _COCO_CLASSES
    if dataset is not None:
        classes = len(dataset.class_names)
    state = build_for_training(config, classes, device)
    uses_graphs(state)  # an error if system.cuda_graph does not fit
    yield from _describe_setting(state)
    if dataset is None:
        batch = noise_batch(state.detector.sample, max(sizes), classes)
        origin = f"noise, as there is no folder {folder}"
    else:
        loader = batch_loader(
            dataset,
            state.detector.sample,
            batch_size=max(sizes),
            seed=system.seed,
            workers=0,
            prefetch=1,
        )
        batch, origin = next(iter(loader)), str(dataset.annotation_file)
    height, width = batch.images.shape[2:]
    yield _line("images", f"{width} x {height}, {classes} classes: {origin}")
    cost = measure_step(state, batch, seconds, process_bytes)
    yield from _describe_cost(cost, sizes)
    yield from _describe_schedule(cost, system)


def noise_batch(sample: SampleFunction, images: int, num_classes: int) -> Batch:
    """Makes a batch of noise with random objects, as a loader would.

    Args:
        sample: the detector's sample function.
        images: number of images B.
        num_classes: number of object classes C.
    """
    height, width = _NOISE_SIZE
    samples = []
    for number in range(images):
        rng = np.random.default_rng(number)
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        corners = rng.uniform(0, (width * 0.75, height * 0.75), (_NOISE_OBJECTS, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(20, 120, (_NOISE_OBJECTS, 2))], 1)
        labels = rng.integers(0, num_classes, _NOISE_OBJECTS)
        samples.append(sample(image, boxes.astype(np.float32), labels, rng))
    return collate(samples, list(range(images)))


def measure_step(
    state: TrainingState, batch: Batch, seconds: float, process_bytes: int = 0
) -> StepCost:
    """Computes a chunk a few times, or one image of it where the chunk would take too much.

    Args:
        state: detector and optimizer of one process; the weights are changed.
        batch: the images of the chunk.
        seconds: limit for the computation of a chunk; the rounds together take about as long.
        process_bytes: main memory of the process before the detector was built.

    Raises:
        UserError: not even one image fits on the device.
    """
    state.network.train()
    device, batch = state.device, batch.to(state.device)
    other = process_bytes if device.type == "cpu" else 0

    def compute(images: int) -> None:
        train_step(_one_chunk(state, images), batch[:images], update=False)

    try:
        eager, counter = torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False)
        with eager, counter, Peak(device) as peak:
            one_image = _seconds(lambda: compute(1), device)
        activations = _difference(peak.bytes, other + _state_bytes(state))
        state.optimizer.step()  # allocates its state
        held, available = _state_bytes(state), _available_bytes(device, process_bytes)
        enough = True
        if available is not None and activations is not None:
            enough = held + activations * len(batch) < available
        images = len(batch) if enough and one_image * len(batch) < seconds else 1
        compute(images)  # compiles, and takes memory from the system
        with Peak(device) as peak:
            begin, times = time.perf_counter(), [_seconds(lambda: compute(images), device)]
            while len(times) < _ROUNDS and time.perf_counter() - begin + times[-1] < seconds:
                times.append(_seconds(lambda: compute(images), device))
        update = _seconds(state.optimizer.step, device)
        graph = _graph_seconds(state, batch[:images], update)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"a chunk does not fit on {device} ({str(error).splitlines()[0]}); set "
            "system.checkpointing, system.precision to bfloat16, or smaller system.chunk_sizes"
        ) from None
    return StepCost(
        images=images,
        flops=counter.get_total_flops(),
        chunk_seconds=statistics.median(times),
        update_seconds=update,
        state_bytes=held,
        activation_bytes=_difference(peak.bytes, other + held),
        available_bytes=available,
        graph_seconds=graph,
    )


def _one_chunk(state: TrainingState, images: int) -> TrainingState:
    """The same training with steps of one chunk."""
    system = replace(state.config.system, batch_size=images, chunk_sizes=None)
    return replace(state, config=replace(state.config, system=system))


def _graph_seconds(state: TrainingState, chunk: Batch, update_seconds: float) -> float | None:
    """Measures the chunk in a CUDA graph; None where steps of one device are not graphs.

    Args:
        state: detector and optimizer; the weights are changed.
        chunk: the images.
        update_seconds: seconds of the update that a graph makes besides.
    """
    if not uses_graphs(state):
        return None
    step, before = choose_step(_one_chunk(state, len(chunk))), FIRST_STEPS + 1  # and a recording
    times = [_seconds(lambda: step(chunk, 1), state.device) for _ in range(before + _ROUNDS)]
    return max(0.0, statistics.median(times[before:]) - update_seconds)


def _describe_setting(state: TrainingState) -> Iterator[str]:
    """Lines about the device and the network."""
    system, device = state.config.system, state.device
    name = f" {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    compiled = "compiled" if system.compile else "not compiled"
    settings = f"{system.precision}, {compiled}, checkpointing: {system.checkpointing}"
    yield _line("device", f"{device}{name}, {settings}")
    parameters = sum(parameter.numel() for parameter in state.network.parameters())
    yield _line("network", f"{state.config.model_name}, {parameters:,} parameters")


def _describe_cost(cost: StepCost, sizes: tuple[int, ...]) -> Iterator[str]:
    """Lines about work, memory and what fits, for the largest chunk."""
    total, chunk = sum(sizes), max(sizes)
    yield _line(
        "a step",
        f"{_count(total, 'image')} in {_count(len(sizes), 'chunk')}, forward and backward "
        f"{cost.flops * total / 1e9:,.4g} GFLOP ({cost.flops / 1e9:,.4g} an image)",
    )
    if cost.images < chunk:
        yield _line(
            "measured",
            f"one image, as a chunk of {chunk} would take too long or too much memory; times and "
            "activations below are those of one image times the number of images",
        )
    scale = chunk / cost.images
    graph = ""
    if cost.graph_seconds is not None:
        graph = f"; {cost.graph_seconds * scale:.3g} s in a CUDA graph, on one device"
    yield _line("a chunk", f"{_count(chunk, 'image')}, {cost.chunk_seconds * scale:.3g} s{graph}")
    state = f"{_size(cost.state_bytes)} of weights, gradients and optimizer"
    if cost.activation_bytes is None or cost.available_bytes is None:
        yield _line("memory", f"{state}; this system does not report what activations take")
        return
    taken = cost.activation_bytes * scale
    yield _line("memory", f"{state}, {_size(taken)} of activations a chunk")
    fitting = int(max(0, cost.available_bytes - cost.state_bytes) * chunk / max(1, taken))
    if fitting < chunk:
        yield _line(
            "fits",
            f"not in {_size(cost.available_bytes)}, where {_count(fitting, 'image')} would; set "
            "smaller system.chunk_sizes, system.checkpointing, or system.precision to bfloat16",
        )
    else:
        yield _line(
            "fits",
            f"{_count(fitting // chunk, 'such chunk')}, {_count(fitting, 'image')}, in "
            f"{_size(cost.available_bytes)}; a device computes its chunks one after the other",
        )


def _describe_schedule(cost: StepCost, system: System) -> Iterator[str]:
    """Lines about the hours of the whole run, by number of devices."""
    yield ""
    yield f"{'devices':>8} {'chunks each':>12} {'seconds a step':>15}   hours for the schedule"
    for world_size in _world_sizes(system):
        every = [rank_chunks(system, Ranks(rank, world_size)) for rank in range(world_size)]
        images = max(sum(chunks.sizes) for chunks in every)
        each = cost.chunk_seconds
        if world_size == 1 and cost.graph_seconds is not None:
            each = cost.graph_seconds
        step = each * images / cost.images + cost.update_seconds
        most = max(len(chunks.sizes) for chunks in every)
        hours = step * system.max_iter / 3600
        yield f"{world_size:>8} {most:>12} {step:>15.4g}   {hours:,.1f}"
    yield f"{system.max_iter:,} steps, without data time and without waiting for other devices"


def _world_sizes(system: System) -> list[int]:
    """Numbers of devices that can divide a step: powers of two, and as many as there are chunks."""
    if system.chunk_sizes is None:
        return [world_size for world_size in (1, 2, 4, 8) if system.batch_size % world_size == 0]
    most = len(system.chunk_sizes)
    powers = takewhile(lambda world_size: world_size < most, (2**power for power in range(most)))
    return [*powers, most]


def _seconds(function: Callable[[], object], device: torch.device) -> float:
    """Measures the wall time of a call, with the device's work."""
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _state_bytes(state: TrainingState) -> int:
    """Bytes of weights, buffers, gradients and the optimizer's state."""
    network = state.network
    gradients = [weight.grad for weight in network.parameters()]
    tensors = [*network.parameters(), *network.buffers(), *gradients]
    tensors += tensors_in(list(state.optimizer.state.values()))
    return sum(tensor.nbytes for tensor in tensors_in(tensors))


def _available_bytes(device: torch.device, process_bytes: int) -> int | None:
    """Memory of a device for this process's tensors, those that are there included."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    if device.type == "cpu" and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") - process_bytes
    return None


def _difference(peak: int | None, other: int) -> int | None:
    return None if peak is None else max(0, peak - other)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _size(number: float) -> str:
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 else f"{number / 2**20:.1f} MiB"


def _line(key: str, value: str) -> str:
    return f"{key:10} {value}"
