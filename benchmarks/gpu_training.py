"""Training steps on a GPU, launched one by one, as CUDA graphs, and compiled: rates and kernels.

A step has its batch of noise in pinned memory, as a loader would hand it over: copying it to the
GPU is part of the step, making it is not.
"""

import contextlib
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_cases import Case
from benchmarks.gpu_process import Setting, file_name
from benchmarks.gpu_rows import Row, Value, attempt, failure
from benchmarks.timing import mean_seconds, median_seconds, product_rate, release, seconds
from benchmarks.training import count_work
from core.config.loading import load_config
from core.models.pretrained import packaged_file
from core.tools.plan import noise_batch
from core.training.build import build_for_training
from core.training.graphs import choose_step
from core.training.weights import start_average

MODES = {
    "eager": ("system.cuda_graph=false",),
    "cuda_graph": ("system.cuda_graph=true",),
    "compile": ("system.cuda_graph=false", "system.compile=true"),
    "compile + cuda_graph": ("system.cuda_graph=true", "system.compile=true"),
}
WARM_UP = 3  # steps after the first one: a graph is recorded within them
ROUNDS, ROUND_SECONDS = 5, 0.4  # of the measured steps
PROFILED = 2  # steps
LISTED = 25  # kernels

# Kinds of kernels by their names, in this order; the first that matches counts.
KINDS = {
    "fused by the compiler": r"triton",
    "batch norm": r"batch_?norm|bn_|welford",
    "pooling": r"cpools",
    "optimizer": r"multi_tensor|adam",
    "convolutions": r"conv(?!ert)|gemm|cutlass|xmma|nvjet|wgrad|dgrad|fprop",
}


def settings_of(case: Case) -> list[str]:
    """Settings of a case, without weights of a backbone that are not installed."""
    missing = case.config == "CornerNet_Lite0" and packaged_file() is None
    return [*case.settings, *(["model.backbone_weights=null"] if missing else [])]


class Steps:
    """The steps of a training, one a call.

    Args:
        case: detector to train.
        mode: a key of ``MODES``.
        device: where it is trained.
    """

    def __init__(self, case: Case, mode: str, device: torch.device) -> None:
        changes = [*settings_of(case), "system.precision=bfloat16", *MODES[mode]]
        config = load_config(case.config, overrides=changes)
        self.system = config.system
        self.run = build_for_training(config, case.classes, device)
        if config.system.ema is not None:
            self.run.average = start_average(self.run.detector.network, config.system.ema, None)
        self.run.wrap_(1)
        self.run.network.train()
        batch = noise_batch(self.run.detector.sample, config.system.batch_size, case.classes)
        self.batch = batch.pin_memory() if device.type == "cuda" else batch
        self._step, self._done = choose_step(self.run), 0

    def __call__(self) -> None:
        self._done += 1
        self._step(self.batch, self._done)


def train(setting: Setting, case: Case, modes: tuple[str, ...]) -> Iterator[Row]:
    """Yields two rows a mode: its rate, and its kernels.

    Args:
        setting: device, folder and time.
        case: detector to train.
        modes: keys of ``MODES``.
    """
    work, begun = None, setting.begun
    for mode in modes:
        name = f"{case.name}, {mode}"
        if setting.device != "cuda" and "graph" in mode:
            yield Row("training", name, problem="needs CUDA")
            continue
        try:
            for row in _train_in_mode(setting, case, mode, begun, work):
                work = row.values.get("TFLOP a step", work)
                yield row
        except Exception as error:
            yield Row("training", name, problem=failure(error))
        release(torch.device(setting.device))
        begun = time.monotonic()


def _train_in_mode(
    setting: Setting, case: Case, mode: str, begun: float, work: Value | None
) -> Iterator[Row]:
    """Yields the rows of a mode.

    Args:
        setting, case, mode: as for :func:`train`.
        begun: when its start-up began.
        work: TFLOP of a step if they are known; otherwise they are counted.
    """
    device, name = torch.device(setting.device), f"{case.name}, {mode}"
    with _warnings() as warnings:
        steps = Steps(case, mode, device)
        seconds(steps, device)
        first = time.monotonic() - begun
        warm_up = seconds(lambda: [steps() for _ in range(WARM_UP)], device)
        one = mean_seconds(steps, device, 1)
        calls = 1 if setting.tiny else max(1, round(ROUND_SECONDS / one))
        each = median_seconds(steps, device, calls, 1 if setting.tiny else ROUNDS)
    values: dict[str, Value] = {
        "images a second": steps.system.batch_size / each,
        "steps a second": 1 / each,
    }
    if device.type == "cuda":
        values["GiB at the peak"] = torch.cuda.max_memory_allocated() / 2**30
        values["GiB reserved"] = torch.cuda.max_memory_reserved() / 2**30
    if work is None:
        work = count_work(steps.run, steps.batch) / 1e12
    rate = product_rate(device, torch.bfloat16, 64 if setting.tiny else None)
    values["TFLOP a step"] = work
    values["of the product's rate"] = float(work) * 1e12 / each / rate
    values["s to the first step"] = first
    values["s more to warm up"] = max(0.0, warm_up - WARM_UP * each)
    yield Row("training", name, values, "; ".join(warnings) or None)
    file = setting.folder / file_name(f"kernels {name}", ".txt")
    yield attempt("kernels", name, lambda: _kernels(steps, device, file, each))


def _kernels(steps: Steps, device: torch.device, file: Path, each: float) -> dict[str, Value]:
    """Measures a step's kernels, and lists the longest in a file; on a CPU its operators.

    Args:
        steps: what computes a step.
        device: where.
        file: gets the list.
        each: seconds of a step.
    """
    on_gpu = device.type == "cuda"
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    with profile(activities=[activity]) as record:
        seconds(lambda: [steps() for _ in range(PROFILED)], device)
    times: dict[str, tuple[float, int]] = {}  # seconds and launches a step
    for event in record.key_averages():
        if on_gpu and (event.device_type != DeviceType.CUDA or event.is_user_annotation):
            continue
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        times[event.key] = spent / 1e6 / PROFILED, event.count // PROFILED
    total = sum(spent for spent, _ in times.values())
    longest = sorted(times.items(), key=lambda item: -item[1][0])[:LISTED]
    lines = [f"{1e3 * s:9.3f} ms {s / total:6.1%} {n:6} x  {key}" for key, (s, n) in longest]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    shares = dict.fromkeys((*KINDS, "element by element and others"), 0.0)
    for key, (spent, _) in times.items():
        shares[kind_of(key)] += spent / total
    launches = sum(count for _, count in times.values())
    return {
        "GPU ms a step": 1e3 * total,
        "of wall time": total / each,
        "kernels": launches,
        **shares,
    }


def kind_of(kernel: str) -> str:
    """Finds the kind of a kernel by its name."""
    found = (kind for kind, names in KINDS.items() if re.search(names, kernel, re.IGNORECASE))
    return next(found, "element by element and others")


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    """Gathers what is warned of: that a graph or a compiler was left out, for example."""
    found: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage().split("\n")[0])

    handler = Handler(logging.WARNING)
    logging.getLogger("core").addHandler(handler)
    try:
        yield found
    finally:
        logging.getLogger("core").removeHandler(handler)
