"""What training takes on a device: work, time and memory, found by computing some of it."""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ..config.errors import UserError
from ..config.loading import System
from ..data.samples import SampleFunction
from ..distributed.ranks import ONE_PROCESS
from ..models.detector import Detector
from ..structures import Batch, collate
from ..train.chunks import rank_chunks
from ..train.memory_use import Peak
from ..train.step import add_gradients_

_SIDES = (480, 640)  # height and width of a synthetic picture, in pixels
_OBJECTS = 8
_ROUNDS = 5


@dataclass(frozen=True)
class StepCost:
    """What was measured.

    Attributes:
        pictures: of the chunk that was computed.
        flops: floating-point operations of one picture, forward and backward, what is computed
            twice included; a multiplication and an addition are two.
        chunk_seconds: of the chunk, forward and backward.
        update_seconds: of the optimiser's step.
        state_bytes: weights, buffers, gradients and the optimiser's state.
        activation_bytes: most that the chunk took beside at a time; None where the system does not
            tell.
        room_bytes: what the device has for both; None where the system does not tell.
    """

    pictures: int
    flops: int
    chunk_seconds: float
    update_seconds: float
    state_bytes: int
    activation_bytes: int | None
    room_bytes: int | None


def synthetic_batch(sample: SampleFunction, pictures: int, num_classes: int) -> Batch:
    """Pictures of noise with random objects, as a worker hands them over.

    Args:
        sample: the detector's.
        pictures: number B of pictures.
        num_classes: number of object classes C.
    """
    height, width = _SIDES
    samples = []
    for number in range(pictures):
        rng = np.random.default_rng(number)
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        corners = rng.uniform(0, (width * 0.75, height * 0.75), (_OBJECTS, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(20, 120, (_OBJECTS, 2))], 1)
        labels = rng.integers(0, num_classes, _OBJECTS)
        samples.append(sample(image, boxes.astype(np.float32), labels, rng))
    return collate(samples, list(range(pictures)))


def measure_step(
    detector: Detector,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    system: System,
    device: torch.device,
    *,
    seconds: float,
    process_bytes: int,
) -> StepCost:
    """Computes a chunk a few times, or one picture of it if the chunk would take too much.

    Args:
        detector, optimizer: see :func:`core.train.loop.train`; the weights are changed.
        batch: the chunk.
        system: its precision, and whether it compiles.
        device: where the network is.
        seconds: most that a chunk may take to be computed; the rounds together about as much.
        process_bytes: what the process held in main memory before the detector was built.

    Raises:
        UserError: not even one picture fits on the device.
    """
    detector.network.train()
    batch = batch.to(device)
    beside = process_bytes if device.type == "cpu" else 0

    def compute(pictures: int) -> None:
        chunk = replace(system, batch_size=pictures, chunk_sizes=None)
        add_gradients_(
            detector, batch[:pictures], chunk, 1, rank_chunks(chunk, ONE_PROCESS), ONE_PROCESS
        )

    try:
        eager, counter = torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False)
        with eager, counter, Peak(device) as peak:
            alone = _seconds(lambda: compute(1), device)
        optimizer.step()  # makes its state
        state, room = _state_bytes(detector, optimizer), _room_bytes(device, process_bytes)
        activations = _difference(peak.bytes, beside + state)
        enough = room is None or activations is None or state + activations * len(batch) < room
        pictures = len(batch) if enough and alone * len(batch) < seconds else 1
        compute(pictures)  # compiles, and takes memory from the system
        with Peak(device) as peak:
            begin, times = time.perf_counter(), [_seconds(lambda: compute(pictures), device)]
            while len(times) < _ROUNDS and time.perf_counter() - begin + times[-1] < seconds:
                times.append(_seconds(lambda: compute(pictures), device))
        update = _seconds(optimizer.step, device)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"a chunk does not fit on {device} ({str(error).splitlines()[0]}); set "
            "system.checkpointing, system.precision to bfloat16, or smaller system.chunk_sizes"
        ) from None
    return StepCost(
        pictures=pictures,
        flops=counter.get_total_flops(),
        chunk_seconds=statistics.median(times),
        update_seconds=update,
        state_bytes=state,
        activation_bytes=_difference(peak.bytes, beside + state),
        room_bytes=room,
    )


def _seconds(function: Callable[[], object], device: torch.device) -> float:
    """Wall time of a call, the device's work included."""
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _state_bytes(detector: Detector, optimizer: torch.optim.Optimizer) -> int:
    network = detector.network
    gradients = [weight.grad for weight in network.parameters()]
    tensors = [*network.parameters(), *network.buffers(), *gradients]
    tensors += tree_leaves(list(optimizer.state.values()))
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))


def _room_bytes(device: torch.device, process_bytes: int) -> int | None:
    """What tensors of this process can have on a device, those that there are included."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    if device.type == "cpu" and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") - process_bytes
    return None


def _difference(peak: int | None, other: int) -> int | None:
    return None if peak is None else max(0, peak - other)
