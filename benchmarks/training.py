"""Measures training as it runs: images a second, use of the device, memory, data time.

    python -m benchmarks.training [--models CornerNet CenterNet-shapes …] [--precisions float32]
                                  [--modes eager compiled] [--steps 5] [--set section.key=value]
    python -m benchmarks.training --scaling              # 1 and 2 processes on the cores here

Without ``--models``: all detectors, as published but with one image a step, and their configs of
the generated shapes. Each case runs in a process of its own, so that its peak of memory is its own,
on generated images of 512 x 512 from the loader (``--workers`` processes). The work of a step is
counted (a multiplication and an addition are two), and its rate is given in percent of that of a
matrix product in the same process and precision, 2048^3 on a CPU and 8192^3 on a GPU. Steps and
products take turns; times are medians. Prints a Markdown table, row by row.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import make_product, seconds
from core import models
from core.config.loading import load_config
from core.data.shapes import write_shapes
from core.models.device import choose_device
from core.structures import Batch
from core.training.build import TrainingState
from core.training.run import prepare
from core.training.step import train_step

HEAD = ["seconds a step", "images a second", "TFLOP a step", "% of mm", "peak GB", "data time"]


def measure(name: str, precision: str, mode: str, folder: str, options: argparse.Namespace) -> None:
    """Prints the row of a case."""
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    run = prepare(
        load_config(name, overrides=settings(name, precision, mode, folder, options)), device
    )
    run.detector.network.train()
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    multiply, product_work = make_product(device, dtype)
    batches = iter(run.batches())
    work = count_work(run, next(batches))
    data_times, steps, products = [], [], []
    for number in range(options.warm_up + options.steps):
        start = time.perf_counter()
        batch = next(batches)
        data_time = time.perf_counter() - start
        spent = seconds(lambda batch=batch: train_step(run, batch), device)
        product = min(seconds(multiply, device) for _ in range(3))
        if number >= options.warm_up:
            data_times.append(data_time)
            steps.append(spent)
            products.append(product)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(device) / 2**30
    spent = statistics.median(steps)
    rate = work / spent / (product_work / statistics.median(products))
    cells = [
        f"{spent:.3f}",
        f"{run.config.system.batch_size / spent:.2f}",
        f"{work / 1e12:.3f}",
        f"{rate:.0%}",
        f"{memory:.2f}",
        f"{sum(data_times) / (sum(data_times) + sum(steps)):.1%}",
    ]
    print(f"| {name}, {precision}, {mode} | {' | '.join(cells)} |", flush=True)


def settings(
    name: str, precision: str, mode: str, folder: str, options: argparse.Namespace
) -> Iterator[str]:
    """Yields the settings that the benchmark changes in a config."""
    images = Path(folder)
    yield f"system.data_dir={images.parent}"
    yield f"system.dataset_dir={images.name}"
    yield from ("system.train_split=train", "system.val_iter=0", "db.categories=null")
    yield f"system.cache_dir={images / 'cache'}"
    yield f"system.workers={options.workers}"
    yield f"system.precision={precision}"
    if mode == "compiled":
        yield "system.compile=true"
    if "-" not in name:
        yield from ("system.batch_size=1", "system.chunk_sizes=null")
    if name == "FasterRCNN":
        yield "model.backbone_weights=null"
    yield from options.set


def count_work(run: TrainingState, batch: Batch) -> int:
    """Counts the floating-point operations of a step; it adds to gradients, and trains nothing."""
    eager = torch.compiler.set_stance("force_eager")
    with eager, FlopCounterMode(display=False) as counter:
        train_step(run, batch, update=False)
    return counter.get_total_flops()


def report_scaling(folder: str, options: argparse.Namespace) -> None:
    """Prints images a second of ``train.py``: one process with 1 and 2 threads, two processes."""
    train = ["train.py", "CornerNet_Squeeze-shapes", "--device", "cpu"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    ways = {
        "1 process, 1 thread": ("1", [sys.executable, *train]),
        "1 process, 2 threads": ("2", [sys.executable, *train]),
        "2 processes, 1 thread each": ("1", [*launcher, "--nproc_per_node=2", *train]),
    }
    print("| CornerNet_Squeeze-shapes, chunks of 4 and 4 | images a second |\n| --- | --- |")
    for way, (threads, command) in ways.items():
        cache = Path(folder) / f"cache {way}"
        changes = [
            *settings("CornerNet_Squeeze-shapes", "float32", "eager", folder, options),
            f"system.cache_dir={cache}",
            "system.chunk_sizes=[4, 4]",
            f"system.max_iter={options.steps}",
            "system.display=1",
        ]
        arguments = [part for change in changes for part in ("--set", change)]
        subprocess.run(
            ["env", f"OMP_NUM_THREADS={threads}", *command, *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        (log,) = cache.rglob("log.jsonl")
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        rates = [line["images_per_second"] for line in lines if "images_per_second" in line]
        print(f"| {way} | {statistics.median(rates[len(rates) // 3 :]):.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    every = [*models.MODELS, *(f"{model}-shapes" for model in models.MODELS)]
    parser.add_argument("--models", nargs="+", default=every, metavar="CONFIG")
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--modes", nargs="+", default=["eager", "compiled"])
    parser.add_argument("--steps", type=int, default=5, help="measured; in all with --scaling")
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, help="of PyTorch; its default otherwise")
    parser.add_argument("--device", help="a GPU if there is one by default")
    parser.add_argument("--set", action="append", default=[], help="another value of the config")
    parser.add_argument("--scaling", action="store_true", help="1 and 2 processes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "shapes"
        write_shapes(folder, {"train": 64, "val": 8}, size=512, seed=0)
        if options.scaling:
            report_scaling(str(folder), options)
            return
        print(f"| | {' | '.join(HEAD)} |\n{'| --- ' * (len(HEAD) + 1)}|")
        spawn = multiprocessing.get_context("spawn")
        for name in options.models:
            for precision in options.precisions:
                for mode in options.modes:
                    case = (name, precision, mode, str(folder), options)
                    process = spawn.Process(target=measure, args=case)
                    process.start()
                    process.join()


if __name__ == "__main__":
    main()
