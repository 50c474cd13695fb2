"""Measures how fast a config trains and detects here, as `train.py` would: in its own processes.

`cornerkit new` starts this module on a config file, alone or under torchrun; the main process
writes what it measured to a file.
"""

import argparse
import dataclasses
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..cli import exit_codes
from ..config.errors import UserError
from ..config.loading import load_config
from ..data.images import Unreadable, read_image
from ..data.splits import open_split
from ..distributed import Ranks, join_ranks
from ..inference.batches import BatchedInference
from ..models.device import choose_device, make_current
from ..structures import Batch
from ..training.freezing import thawed
from ..training.graphs import Step, choose_step
from ..training.run import TrainingRun, prepare
from .new_choice import Speed

logger = logging.getLogger(__name__)

SECONDS = 6.0  # that are measured of the steps
_WARM_SECONDS, _WARM_STEPS = 2.0, 3  # before: a CUDA graph is made, the loader not ahead any more
_LEAST_STEPS = 3
_SLOW = 1.5  # after so many times the seconds, fewer steps are enough
_IMAGES, _IMAGE_SECONDS = 4, 2.0  # images in which is detected, most seconds
_PACKAGE = Path(__file__).resolve().parents[2]  # folder of the package


def measure(
    content: Mapping[str, Any], name: str, processes: int, threads: int, device: str | None = None
) -> Speed | None:
    """Measures the speed of a config that is not written yet.

    Args:
        content: what the config's file will hold; the number of steps does not matter.
        name: the config's name.
        processes: number of processes that train together.
        threads: threads of all of them together.
        device: device to train on; None: a GPU if there is one.

    Returns:
        The speed; None if several processes cannot train together here, for which a line is logged.

    Raises:
        UserError: the config does not fit the data or the device.
        RuntimeError: measuring failed for another reason.
    """
    begun = time.time()
    with TemporaryDirectory() as folder:
        config, result = Path(folder) / f"{name}.json", Path(folder) / "speed.json"
        system = {**content["system"], "cache_dir": folder}
        config.write_text(json.dumps({**content, "system": system}), encoding="utf-8")
        arguments = [str(config), str(result), "--begun", repr(begun), "--seconds", str(SECONDS)]
        if device is not None:
            arguments += ["--device", device]
        ended = subprocess.run(
            [*_launcher(processes), "-m", __name__, *arguments],
            env=_environment(threads // processes),
            capture_output=True,
            text=True,
        )
        if result.is_file():
            return Speed(**json.loads(result.read_text(encoding="utf-8")))
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if processes > 1:
        reason = errors[0] if errors else (lines or ["it ended without a result"])[-1]
        logger.warning("%d processes were not measured: %s", processes, reason)
        return None
    if errors:
        raise UserError(errors[0])
    raise RuntimeError("measuring a step failed:\n" + "\n".join(lines[-20:]))


def main(argv: list[str]) -> int:
    """Measures in this process, a rank of those that torchrun started; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file")
    parser.add_argument("result", type=Path, help="file to write")
    parser.add_argument("--begun", type=float, help="time at which the command was started")
    parser.add_argument("--seconds", type=float, help="that are measured of the steps")
    parser.add_argument("--device")
    options = parser.parse_args(argv)
    with join_ranks() as ranks:
        config = thawed(load_config(options.config))
        device = choose_device(options.device)
        make_current(device)
        ranks = ranks.with_step_group(config.system.dist_timeout, device, None)
        run = prepare(config, device, ranks=ranks)
        step, ready = _measure_steps(run, options.seconds)
        speed = Speed(step, _measure_detection(run), ready - options.begun)
        if ranks.is_main:
            options.result.write_text(json.dumps(dataclasses.asdict(speed)), encoding="utf-8")
    return 0


def _launcher(processes: int) -> list[str]:
    """Start of the command line of so many processes."""
    if processes == 1:
        return [sys.executable]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*torchrun, f"--nproc-per-node={processes}"]


def _environment(threads: int) -> dict[str, str]:
    """Variables of the processes: their threads, and the folder in which they find this package."""
    path = os.pathsep.join(filter(None, (str(_PACKAGE), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "OMP_NUM_THREADS": str(max(1, threads)), "PYTHONPATH": path}


def _measure_steps(run: TrainingRun, seconds: float) -> tuple[float, float]:
    """Trains for some seconds.

    Returns:
        Seconds of a step; and the time, by ``time.time``, at which steps would have begun if none
        of them had taken longer than that.
    """
    run.network.train()
    batches = iter(run.batches())
    compute = choose_step(run)
    warm, _ = _train(compute, run.ranks, batches, min(seconds, _WARM_SECONDS), _WARM_STEPS)
    begun = time.time()
    count, duration = _train(compute, run.ranks, batches, seconds, _LEAST_STEPS)
    step = duration / count
    return step, begun - warm * step


def _train(
    step: Step, ranks: Ranks, batches: Iterator[Batch], seconds: float, least: int
) -> tuple[int, float]:
    """Trains for so many seconds, and longer until ``least`` steps are done, but not much longer.

    As in a real run, a step is queued on a GPU before the loss of the step before is read.

    Returns:
        Number of steps, at least one, and their seconds.
    """
    start, count = time.perf_counter(), 0
    queued: Tensor | None = None
    while True:
        passed = time.perf_counter() - start
        enough = passed >= seconds and (count >= least or passed >= _SLOW * seconds)
        if ranks.broadcast(enough and count > 0):
            break
        _, norm = step(next(batches), 1)
        if queued is not None:
            queued.item()
        queued, count = norm.clone(), count + 1  # the next step may write into its memory
    if queued is not None:
        queued.item()
    return count, time.perf_counter() - start


@torch.no_grad()
def _measure_detection(run: TrainingRun) -> float:
    """Measures the seconds of an image of the validation split, read and detected in."""
    system = run.config.system
    dataset = open_split(system, run.config.db, system.val_split)
    run.detector.network.eval()
    predict = run.detector.predict(run.device, system.precision == "bfloat16")
    times: list[float] = []
    chosen = np.linspace(0, len(dataset) - 1, _IMAGES + 1).astype(int).tolist()
    for index in chosen:
        start = time.perf_counter()
        image = read_image(dataset.image_path(index))
        if not isinstance(image, Unreadable):
            next(BatchedInference(run.detector.infer, predict, 1, threaded=False)([image]))
        times.append(time.perf_counter() - start)
        if sum(times[1:]) > _IMAGE_SECONDS:
            break
    return float(np.mean(times[1:]))  # the first one warms up


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
