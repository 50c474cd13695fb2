"""Times corner pooling as multiples of ``x.clone()``, decoding and soft-NMS of ``torch.topk``.

    python -m benchmarks.operators [--rounds 20] [--threads 1 2] [--chart operators.png]

Compares the reference's algorithm, flip + cummax + flip, the fallback in standard PyTorch, and
ours. They take turns with the yardstick, and each time is the fastest of all rounds, for machines
that others use too. Prints Markdown tables; --chart needs matplotlib.

The CPU is measured in two processes: one whose allocator takes every large result fresh from the
system, as is its default for tensors of this size, so that page faults cost more than the work; and
one whose allocator reuses memory. A GPU is measured if there is one, and the rate of ours compared
with that of a copy within the device. benchmarks/decoding.py measures decoding and soft-NMS, in a
process for each number of threads, and on the GPU.
"""

import argparse
import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.chart import draw_bars
from benchmarks.pools import POOLS, Pool, both_passes
from benchmarks.timing import mean_seconds
from core.evaluation.plotting import drawing_style
from cpools_ext import DIRECTIONS, corner_pool, corner_pool_sum, native

SHAPE = (4, 128, 128, 128)

# Settings of the C library's allocator: the size from which a block is the system's.
MEMORY = {
    "fresh": {"MALLOC_MMAP_THRESHOLD_": "1000000"},
    "reused": {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "8000000000"},
}


def fastest(
    ways: dict[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, float]:
    """Measures the fastest time of each function in seconds; they take turns.

    On a GPU a time is the mean of ten calls.
    """
    calls = 1 if device.type == "cpu" else 10
    times = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, function in ways.items():
            times[name] = min(times[name], mean_seconds(function, device, calls))
    return times


def passes_of(
    direction: str, x: Tensor, grad: Tensor
) -> dict[str, dict[str, Callable[[], object]]]:
    """Functions to measure for a direction, by pass and way."""
    forward, both = {}, {}
    for name, pool in POOLS.items():

        def pooled(x: Tensor, pool: Pool = pool) -> Tensor:
            return pool(x, direction)

        assert torch.equal(pooled(x), corner_pool(x, direction)), name
        forward[name] = functools.partial(pooled, x)
        both[name] = both_passes(pooled, x, grad)
    return {"forward": forward, "forward + backward": both}


def multiples(x: Tensor, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Measures times as multiples of a clone: by pass and way, one number a direction."""
    grad = torch.randn_like(x)
    result: dict[str, dict[str, list[float]]] = {}
    for direction in DIRECTIONS:
        for name, ways in passes_of(direction, x, grad).items():
            times = fastest({"clone": x.clone, **ways}, rounds, x.device)
            for way in ways:
                values = result.setdefault(name, {}).setdefault(way, [])
                values.append(times[way] / times["clone"])
    return result


def pair_multiples(x: Tensor, rounds: int) -> dict[str, list[float]]:
    """Measures a corner's two poolings and their sum, forward and with the backward pass."""
    other, grad = torch.randn_like(x), torch.randn_like(x)

    def in_two(x: Tensor) -> Tensor:
        return corner_pool(x, "top") + corner_pool(other, "left")

    def in_one(x: Tensor) -> Tensor:
        return corner_pool_sum(x, other, "top_left")

    rows: dict[str, list[float]] = {}
    pools = {"two poolings and an addition": in_two, "`corner_pool_sum`": in_one}
    for name, pool in pools.items():
        ways = {"clone": x.clone, "forward": lambda pool=pool: pool(x)}
        times = fastest({**ways, "both": both_passes(pool, x, grad)}, rounds, x.device)
        rows[name] = [times["forward"] / times["clone"], times["both"] / times["clone"]]
    return rows


def rates(x: Tensor, rounds: int) -> dict[str, list[float]]:
    """Measures GB/s of a copy, forward and backward, and their ratios to it, by direction."""
    ops = torch.ops.cpools_ext
    moved, copy = 2 * x.nbytes, torch.empty_like(x)
    rows: dict[str, list[float]] = {}
    for direction, scan in DIRECTIONS.items():
        record = ops.corner_pool(x, *scan)[1]
        ways: dict[str, Callable[[], object]] = {
            "copy": lambda: copy.copy_(x),
            "forward": lambda scan=scan: ops.corner_pool(x, *scan),
            "backward": lambda scan=scan, record=record: ops.corner_pool_backward(x, record, *scan),
        }
        times = fastest(ways, rounds, x.device)
        gigabytes = {name: moved / seconds / 1e9 for name, seconds in times.items()}
        ratios = [gigabytes[name] / gigabytes["copy"] for name in ("forward", "backward")]
        rows[direction] = [*gigabytes.values(), *ratios]
    return rows


def table(head: list[str], rows: dict[str, list[str]]) -> str:
    """Formats a Markdown table."""
    lines = [["", *head], ["---"] * (len(head) + 1), *([name, *row] for name, row in rows.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def spread(values: list[float]) -> str:
    """Formats the numbers of the directions as a range from the least to the greatest."""
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low}-{high}"


def report_cpu(
    memory: str, shape: tuple[int, ...], rounds: int, threads: list[int], chart: Path | None
) -> None:
    """Prints the tables of the CPU, and draws the chart of the first number of threads."""
    head: list[str] = []
    rows: dict[str, list[str]] = {}
    pairs: dict[str, list[str]] = {}
    for count in threads:
        torch.set_num_threads(count)
        number_of_threads = f"{count} thread{'s' * (count > 1)}"
        x = torch.randn(shape)
        measured = multiples(x, rounds)
        for name, ways in measured.items():
            head.append(f"{name}, {number_of_threads}")
            for way, values in ways.items():
                rows.setdefault(way, []).append(spread(values))
        for way, both in pair_multiples(x, rounds).items():
            pairs.setdefault(way, []).extend(f"{value:.2f}" for value in both)
        if chart is not None and count == threads[0]:
            worst = {
                name: {way: max(each) for way, each in ways.items()}
                for name, ways in measured.items()
            }
            title = f"Corner pooling of {shape}, CPU, {number_of_threads}"
            draw_bars(chart, f"{title}: times a clone (slowest direction)", worst)
    clone = fastest({"clone": x.clone}, rounds, x.device)["clone"]
    print(
        f"CPU, {memory} memory, float32 {shape}, multiples of `x.clone()` "
        f"({1e3 * clone:.1f} ms with {threads[-1]} threads), the four directions\n"
    )
    print(table(head, rows))
    print("A corner's two maps, forward and backward\n")
    print(table(head, pairs))


def report_cuda(shape: tuple[int, ...], rounds: int) -> None:
    """Prints the tables of the GPU."""
    device = torch.device("cuda")
    print(f"{torch.cuda.get_device_name()}, multiples of `x.clone()`, {shape}\n")
    measured = multiples(torch.randn(shape, device=device), rounds)
    ways = {way: [spread(measured[name][way]) for name in measured] for way in POOLS}
    print(table(list(measured), ways))
    pairs = pair_multiples(torch.randn(shape, device=device), rounds)
    print("A corner's two maps\n")
    print(
        table(list(measured), {way: [spread([each]) for each in row] for way, row in pairs.items()})
    )
    head = ["copy GB/s", "forward GB/s", "backward GB/s", "forward / copy", "backward / copy"]
    for dtype in (torch.float32, torch.bfloat16):
        large = (16, *shape[1:])  # larger than the cache
        measured_rates = rates(torch.randn(large, device=device).to(dtype), rounds)
        print(f"{dtype} {large}\n")
        rows = {name: [f"{each:.2f}" for each in row] for name, row in measured_rates.items()}
        print(table(head, rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--shape", type=int, nargs=4, default=SHAPE)
    parser.add_argument("--chart", type=Path, help="PNG to draw, of fresh memory")
    parser.add_argument("--memory", choices=MEMORY, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.chart:
        with drawing_style():  # raises here, not after the measurements, if matplotlib is missing
            pass
    if not native.has_kernel("cpu"):
        parser.error(f"no native operators to measure: {native.load()}")
    shape = tuple(options.shape)
    if options.memory:
        chart = options.chart if options.memory == "fresh" else None
        report_cpu(options.memory, shape, options.rounds, options.threads, chart)
        return
    print(f"torch {torch.__version__}; native: {native.describe_build()}\n", flush=True)
    for memory, settings in MEMORY.items():
        run_module("operators", *sys.argv[1:], "--memory", memory, **settings)
    for count in options.threads:
        run_module("decoding", "--rounds", str(options.rounds), "--threads", str(count))
    if not torch.cuda.is_available():
        print("\nNo CUDA device: nothing was measured there.")
    elif not native.has_kernel("cuda"):
        print("\nNothing was measured on the GPU: the binary was built without CUDA operators.")
    else:
        report_cuda(shape, options.rounds)
        run_module("decoding", "--rounds", str(options.rounds), "--device", "cuda")


def run_module(name: str, *arguments: str, **variables: str) -> None:
    """Runs a benchmark in a process of its own."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    subprocess.run(command, env={**os.environ, **variables}, check=True)


if __name__ == "__main__":
    main()
