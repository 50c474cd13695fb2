"""Memory of a training run and of its loader workers, step by step: it must stay flat.

    python -m benchmarks.memory [CONFIG] [--steps 2000] [--workers 2] [--set SECTION.KEY=VALUE …]

Runs ``train.py`` in this process, by default for the small config of the generated shapes, on
pictures that it generates. Between every tenth steps it reads from Linux's /proc/PID/smaps_rollup

- resident: what all processes have together in memory, programs and libraries aside, those pages
  counted once that several have;
- in use: the same once this process's allocator has returned what is free. Before, up to 64 MB of
  free memory come and go with the order of allocations;
- own: what each process has for itself.

The last line says by how much they moved after the first 200 steps.
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

import train
from core.data.shapes import write_shapes
from core.structures import Batch
from core.train.run import Run

EVERY, SETTLED = 10, 200  # steps
PICTURES = {"train": 400, "val": 20}


class Memory(NamedTuple):
    """Megabytes between two steps, see above; ``own`` of this process, then of its workers."""

    resident: float
    in_use: float
    own: list[float]


def megabytes(process: int, *fields: str) -> float:
    """The sum of some fields of a process's ``smaps_rollup``."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    rows = (line.split() for line in lines)
    return sum(int(row[1]) for row in rows if row[0].rstrip(":") in fields) / 1024


def own_megabytes(process: int) -> float:
    """What a process has for itself."""
    return megabytes(process, "Private_Clean", "Private_Dirty")


def measure() -> Memory:
    """The memory of this process and its loader workers, now."""
    children = sorted(child.pid or 0 for child in multiprocessing.active_children())
    processes = [os.getpid(), *children]

    def together() -> float:
        return sum(megabytes(process, "Pss_Anon", "Pss_Shmem") for process in processes)

    resident = together()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)
    return Memory(resident, together(), [own_megabytes(process) for process in processes])


class Watched:
    """Batches of a run, and the memory of its processes between its steps.

    Attributes:
        memory: by the steps behind it.
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
        """The largest change of what is in use since ``settled`` steps, and after which step.

        As a share of what was in use then.
        """
        first = self.memory[settled].in_use
        later = [(m.in_use / first - 1, done) for done, m in self.memory.items() if done >= settled]
        return max(later, key=lambda change: abs(change[0]))

    def drift(self, kind: str, settled: int = SETTLED) -> float:
        """The change of a kind's median, from the first 20 times after ``settled`` to the last."""
        later = [getattr(m, kind) for done, m in self.memory.items() if done >= settled]
        return statistics.median(later[-20:]) / statistics.median(later[:20]) - 1


def watched_run(words: list[str]) -> Watched:
    """Runs ``train.py`` with these words, watched."""
    batches, runs = Run.batches, []

    def watched_batches(run: Run) -> Watched:
        runs.append(Watched(batches(run)))
        return runs[-1]

    Run.batches = watched_batches  # type: ignore[method-assign]
    try:
        code = train.main(words)
    finally:
        Run.batches = batches  # type: ignore[method-assign]
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
        write_shapes(Path(folder) / "shapes", PICTURES, size=127, seed=0)
        settings = [f"{key}_dir={folder}" for key in ("data", "cache", "result")]
        settings += [f"max_iter={options.steps}", f"snapshot={max(1, options.steps // 20)}"]
        words = [options.config, "--workers", str(options.workers), "--device", "cpu"]
        words += [word for setting in settings for word in ("--set", f"system.{setting}")]
        words += [word for setting in options.set for word in ("--set", setting)]
        watched = watched_run(words)
    print(f"{'steps':>8}{'MB resident':>14}{'in use':>10}   own: here, workers")
    for done in list(watched.memory)[:: max(1, len(watched.memory) // 40)]:
        resident, in_use, own = watched.memory[done]
        print(f"{done:8}{resident:14.1f}{in_use:10.1f}   {' '.join(f'{x:8.1f}' for x in own)}")
    share, done = watched.furthest()
    print(
        f"{torch.get_num_threads()} threads; after {SETTLED} steps resident memory drifted by "
        f"{watched.drift('resident'):+.2%}, that in use by {watched.drift('in_use'):+.2%}; it was "
        f"furthest after {done} steps, {share:+.2%}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
