"""Measures the memory of a training run and its loader workers, step by step: it must stay flat.

    python -m benchmarks.memory [CONFIG] [--steps 2000] [--workers 2] [--set SECTION.KEY=VALUE …]

Runs ``train.py`` in this process, by default for the small config of the generated shapes, on
images that it generates. After every tenth step it reads from Linux's /proc/PID/smaps_rollup

- resident: memory of all processes together, without programs and libraries; pages that several
  processes have are counted once;
- in use: the same after this process's allocator has returned free memory, of which up to 64 MB
  come and go with the order of allocations;
- own: memory that each process has to itself.

The last line says by how much they changed after the first 200 steps.
"""

import argparse
import ctypes
import multiprocessing
import os
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.process_memory import megabytes, own_megabytes
from core.data.shapes import write_shapes
from core.structures import Batch
from core.training.command import main as train
from core.training.run import TrainingRun

EVERY, SETTLED = 10, 200  # steps
IMAGES = {"train": 400, "val": 20}


class Memory(NamedTuple):
    """Megabytes between two steps; ``own`` of this process first, then of each worker."""

    resident: float
    in_use: float
    own: list[float]


def measure() -> Memory:
    """Reads the memory of this process and its loader workers."""
    children = sorted(child.pid or 0 for child in multiprocessing.active_children())
    processes = [os.getpid(), *children]

    def of_all() -> float:
        return sum(megabytes(process, "Pss_Anon", "Pss_Shmem") for process in processes)

    resident = of_all()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)
    return Memory(resident, of_all(), [own_megabytes(process) for process in processes])


class Watched:
    """Batches of a run; reads the memory of its processes between steps.

    Attributes:
        memory: memory by the number of steps done.
    """

    def __init__(self, batches: Iterable[Batch]) -> None:
        self.batches = batches
        self.memory: dict[int, Memory] = {}

    def __iter__(self) -> Iterator[Batch]:
        return self._watch(iter(self.batches))  # at once: workers start here

    def _watch(self, stream: Iterator[Batch]) -> Iterator[Batch]:
        for done, batch in enumerate(stream):
            if done % EVERY == 0:
                self.memory[done] = measure()
            yield batch

    def furthest(self, settled: int = SETTLED) -> tuple[float, int]:
        """Finds the largest change of memory in use since ``settled`` steps, and its step.

        Returns:
            change: as a fraction of the memory in use after ``settled`` steps.
            step: number of steps done.
        """
        first = self.memory[settled].in_use
        later = [(m.in_use / first - 1, done) for done, m in self.memory.items() if done >= settled]
        return max(later, key=lambda change: abs(change[0]))

    def drift(self, kind: str, settled: int = SETTLED) -> float:
        """Computes the change of a kind's median, from the first 20 readings to the last 20.

        Args:
            kind: field of :class:`Memory`.
            settled: steps before the first reading.
        """
        later = [getattr(m, kind) for done, m in self.memory.items() if done >= settled]
        return statistics.median(later[-20:]) / statistics.median(later[:20]) - 1


def watched_run(argv: list[str]) -> Watched:
    """Runs ``train.py`` with these arguments, and watches its memory."""
    batches, runs = TrainingRun.batches, []

    def watched_batches(run: TrainingRun) -> Watched:
        runs.append(Watched(batches(run)))
        return runs[-1]

    TrainingRun.batches = watched_batches  # type: ignore[method-assign]
    try:
        code = train(argv)
    finally:
        TrainingRun.batches = batches  # type: ignore[method-assign]
    assert code == 0, f"train.py ended with {code}"
    return runs[0]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", nargs="?", default="CornerNet_Squeeze-shapes")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], help="another value of the config")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_shapes(Path(folder) / "shapes", IMAGES, size=127, seed=0)
        settings = [f"{key}_dir={folder}" for key in ("data", "cache", "result")]
        settings += [f"max_iter={options.steps}", f"snapshot={max(1, options.steps // 20)}"]
        settings = [*(f"system.{setting}" for setting in settings), *options.set]
        argv = [options.config, "--workers", str(options.workers), "--device", "cpu"]
        argv += [part for setting in settings for part in ("--set", setting)]
        watched = watched_run(argv)
    print(f"{'steps':>8}{'MB resident':>14}{'in use':>10}   own: here, workers")
    for done in list(watched.memory)[:: max(1, len(watched.memory) // 40)]:
        resident, in_use, own = watched.memory[done]
        print(f"{done:8}{resident:14.1f}{in_use:10.1f}   {' '.join(f'{x:8.1f}' for x in own)}")
    change, done = watched.furthest()
    print(
        f"{torch.get_num_threads()} threads; after {SETTLED} steps resident memory drifted by "
        f"{watched.drift('resident'):+.2%}, that in use by {watched.drift('in_use'):+.2%}; it was "
        f"furthest after {done} steps, {change:+.2%}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
