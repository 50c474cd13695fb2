"""Memory of training on a GPU beside what ``cornerkit plan`` says, and images detected a second."""

import statistics
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import torch

from benchmarks.gpu_cases import SMALL_SQUEEZE, TINY, Case, batch_of
from benchmarks.gpu_process import Setting
from benchmarks.gpu_rows import Row, Value, attempt
from benchmarks.gpu_training import WARM_UP, Steps, settings_of
from benchmarks.inference import STAGES, ours
from benchmarks.timing import release, seconds
from core.data.shapes_natural import draw_natural
from core.tools.plan import measure_step
from core.training.memory_use import Peak, memory_use

SMALL_GPU = 23.0  # GiB of 24 that the driver and CUDA leave
PLAN_SECONDS = 10.0  # of the plan's measurement
SIZE = (640, 480)  # width and height of the images to detect in
ROUNDS = 3

CHUNK = Case("CornerNet, chunk of 5", "CornerNet", batch_of(5))  # as published
DETECTED = [  # with the number of images of a batch
    (Case("CornerNet", "CornerNet"), 8),
    (Case("CornerNet-bccd", "CornerNet-bccd"), 32),
    (Case("small Squeeze 383", "CornerNet_Squeeze", SMALL_SQUEEZE), 8),
    (Case("CornerNet_Squeeze", "CornerNet_Squeeze"), 8),
    (Case("CornerNet_Saccade", "CornerNet_Saccade"), 8),
    (Case("CornerNet_Lite0", "CornerNet_Lite0"), 32),
    (Case("CenterNet", "CenterNet"), 8),
]


def remember(setting: Setting) -> Iterator[Row]:
    """Yields rows of the memory of a step with each kind of checkpointing.

    On a GPU this process gets no more than a card of 24 GB has, so a step that does not fit there
    fails. On a CPU memory is what the process took more than before.
    """
    device = torch.device(setting.device)
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, SMALL_GPU * 2**30 / total))
    case = TINY[0] if setting.tiny else CHUNK
    for part in ("stack",) if setting.tiny else ("none", "residual", "stack"):
        changed = replace(case, settings=(*case.settings, f"system.checkpointing={part}"))
        for mode in ("eager", "cuda_graph") if device.type == "cuda" else ("eager",):
            name = f"{case.name}, checkpointing: {part}, {mode}"
            yield attempt("memory", name, partial(_memory, changed, mode, device))
            release(device)


def _memory(case: Case, mode: str, device: torch.device) -> dict[str, Value]:
    """Measures the peak of some steps, and what the plan says of one."""
    other = memory_use().get("resident", 0) if device.type == "cpu" else 0
    steps = Steps(case, mode, device)
    limit = 0.0 if device.type == "cpu" else PLAN_SECONDS
    cost = measure_step(steps.run, steps.batch, limit, other)
    steps.run.optimizer.zero_grad(set_to_none=True)
    release(device)
    with Peak(device) as peak:
        seconds(lambda: [steps() for _ in range(1 + WARM_UP)], device)
    activations = (cost.activation_bytes or 0) * len(steps.batch) / cost.images
    values: dict[str, Value] = {
        "GiB by the plan": (cost.state_bytes + activations) / 2**30,
        "GiB at the peak": ((peak.bytes or 0) - other) / 2**30,
    }
    if device.type == "cuda":
        values["GiB reserved"] = torch.cuda.max_memory_reserved() / 2**30
        values["limit"] = f"{SMALL_GPU:g} GiB"
    return values


def detect(setting: Setting) -> Iterator[Row]:
    """Yields rows of the images a second of detectors, in bfloat16 and with random weights."""
    device = torch.device(setting.device)
    size = (64, 48) if setting.tiny else SIZE
    image = cv2.resize(draw_natural(np.random.default_rng(1)).image, size)
    for case, batch in [(TINY[0], 1)] if setting.tiny else DETECTED:
        changes = [*settings_of(case), "system.precision=bfloat16"]
        name = f"{case.name}, batches of {batch}"
        yield attempt("detection", name, partial(_detect, case, image, batch, device, changes))
        release(device)


def _detect(
    case: Case, image: np.ndarray, batch: int, device: torch.device, changes: list[str]
) -> dict[str, Value]:
    """Measures the detection in an image, in batches of it."""
    once = ours(case.config, image, batch, device, changes)
    once()
    runs = [once() for _ in range(1 if device.type == "cpu" else ROUNDS)]
    spent = statistics.median(each for each, _ in runs)
    stages = {
        f"ms {stage}": 1e3 * statistics.median(each[stage] for _, each in runs) for stage in STAGES
    }
    return {"images a second": 1 / spent, "ms an image": 1e3 * spent, **stages}
