"""Corner pooling as multiples of ``x.clone()``, decoding and soft-NMS of ``torch.topk``.

    python -m benchmarks.operators [--rounds 20] [--threads 1 2] [--chart operators.png]

Four ways: the reference's algorithm, flip + cummax + flip, the fallback in standard PyTorch, and
ours. The ways take turns with the yardstick, and each figure is the fastest of all rounds, for
machines that others use too. Prints Markdown tables.

On the CPU always, in two processes: one whose allocator takes every large result fresh from the
system, as it does with tensors of this size unless told otherwise, so that page faults cost more
than the work; and one whose allocator uses memory again. On a GPU where there is one; there the
rate of ours is compared with that of a copy within the device. benchmarks/decoding.py measures
decoding and soft-NMS, in a process for each number of threads, and on the GPU.
"""

import argparse
import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.chart import draw_bars
from benchmarks.pools import POOLS, Pool, both_passes
from cpools_ext import DIRECTIONS, corner_pool, corner_pool_sum, native

SHAPE = (4, 128, 128, 128)

# Settings of the C library's allocator: the size from which a block is the system's.
MEMORY = {
    "fresh": {"MALLOC_MMAP_THRESHOLD_": "1000000"},
    "reused": {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "8000000000"},
}


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Time of a call; on a GPU of a call among ten, as the device's own clock has it."""
    if device.type == "cpu":
        start = time.perf_counter()
        function()
        return time.perf_counter() - start
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(10):
        function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e4


def fastest(
    ways: dict[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, float]:
    """The fastest time of each way in seconds; they take turns."""
    times = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, function in ways.items():
            times[name] = min(times[name], seconds(function, device))
    return times


def passes_of(
    direction: str, x: Tensor, grad: Tensor
) -> dict[str, dict[str, Callable[[], object]]]:
    """What is measured in a direction: by pass and way."""
    forward, both = {}, {}
    for name, pool in POOLS.items():

        def pooled(x: Tensor, pool: Pool = pool) -> Tensor:
            return pool(x, direction)

        assert torch.equal(pooled(x), corner_pool(x, direction)), name
        forward[name] = functools.partial(pooled, x)
        both[name] = both_passes(pooled, x, grad)
    return {"forward": forward, "forward + backward": both}


def multiples(x: Tensor, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Times as multiples of a clone: by pass and way, a figure a direction."""
    grad = torch.randn_like(x)
    result: dict[str, dict[str, list[float]]] = {}
    for direction in DIRECTIONS:
        for name, ways in passes_of(direction, x, grad).items():
            times = fastest({"clone": x.clone, **ways}, rounds, x.device)
            for way in ways:
                figures = result.setdefault(name, {}).setdefault(way, [])
                figures.append(times[way] / times["clone"])
    return result


def pair_multiples(x: Tensor, rounds: int) -> dict[str, list[float]]:
    """A corner's two poolings and their sum, forward and with the backward pass."""
    other, grad = torch.randn_like(x), torch.randn_like(x)

    def apart(x: Tensor) -> Tensor:
        return corner_pool(x, "top") + corner_pool(other, "left")

    def at_once(x: Tensor) -> Tensor:
        return corner_pool_sum(x, other, "top_left")

    rows: dict[str, list[float]] = {}
    for name, pool in {"two poolings and an addition": apart, "`corner_pool_sum`": at_once}.items():
        ways = {"clone": x.clone, "forward": lambda pool=pool: pool(x)}
        times = fastest({**ways, "both": both_passes(pool, x, grad)}, rounds, x.device)
        rows[name] = [times["forward"] / times["clone"], times["both"] / times["clone"]]
    return rows


def rates(x: Tensor, rounds: int) -> dict[str, list[float]]:
    """Shares of the rate of a copy within the device: forward and backward, by direction."""
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
        shares = [gigabytes[name] / gigabytes["copy"] for name in ("forward", "backward")]
        rows[direction] = [*gigabytes.values(), *shares]
    return rows


def table(head: list[str], rows: dict[str, list[str]]) -> str:
    """A Markdown table."""
    lines = [["", *head], ["---"] * (len(head) + 1), *([name, *row] for name, row in rows.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def spread(values: list[float]) -> str:
    """The directions' figures as one: the least and the greatest."""
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
        x = torch.randn(shape)
        figures = multiples(x, rounds)
        for name, ways in figures.items():
            head.append(f"{name}, {count} thread{'s' * (count > 1)}")
            for way, values in ways.items():
                rows.setdefault(way, []).append(spread(values))
        for way, both in pair_multiples(x, rounds).items():
            pairs.setdefault(way, []).extend(f"{value:.2f}" for value in both)
        if chart is not None and count == threads[0]:
            worst = {
                name: {way: max(each) for way, each in ways.items()}
                for name, ways in figures.items()
            }
            title = f"Corner pooling of {shape}, CPU, 1 thread: times a clone (slowest direction)"
            draw_bars(chart, title, worst)
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
    figures = multiples(torch.randn(shape, device=device), rounds)
    ways = {way: [spread(figures[name][way]) for name in figures] for way in POOLS}
    print(table(list(figures), ways))
    pairs = pair_multiples(torch.randn(shape, device=device), rounds)
    print("A corner's two maps\n")
    print(
        table(list(figures), {way: [spread([each]) for each in row] for way, row in pairs.items()})
    )
    head = ["copy GB/s", "forward GB/s", "backward GB/s", "forward / copy", "backward / copy"]
    for dtype in (torch.float32, torch.bfloat16):
        large = (16, *shape[1:])  # larger than the cache
        shares = rates(torch.randn(large, device=device).to(dtype), rounds)
        print(f"{dtype} {large}\n")
        print(table(head, {name: [f"{each:.2f}" for each in row] for name, row in shares.items()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--shape", type=int, nargs=4, default=SHAPE)
    parser.add_argument("--chart", type=Path, help="PNG to draw, of fresh memory")
    parser.add_argument("--memory", choices=MEMORY, help=argparse.SUPPRESS)
    options = parser.parse_args()
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
