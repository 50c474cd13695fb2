"""Loader workers that the system kills: the run saves, and names worker, signal and setting."""

import os
import signal
import time
from pathlib import Path

import pytest

from core.data.loader import batch_loader
from core.training.chunks import rank_chunks
from tests.data.test_loader import SAMPLE, Folder, options
from tests.support.engine_stand_in import stand_in, system
from tests.support.some_ranks import run_ranks
from tests.training.test_loop_ranks import SETTINGS, train_here

HINT = "lower system.workers or system.prefetch_size"


class Killing:
    """Batches of a loader; a worker gets a signal (0: none) before the fourth is yielded."""

    def __init__(self, loader, number):
        self.loader, self.number = loader, number

    def __iter__(self):
        return self._batches(iter(self.loader))  # at once, for workers start here

    def _batches(self, stream):
        for number, batch in enumerate(stream, 1):
            if number == 4:
                os.kill(stream._workers[0].pid, self.number)
                time.sleep(0.5)  # its death is reported while the step goes on
            yield batch


def rank_loses_worker(ranks, folder: Path, number):
    """Trains on images from a loader; the worker of the last rank gets a signal."""
    rows = rank_chunks(system(**SETTINGS), ranks).rows
    changes = options(workers=1, batch_size=7, rows=rows)
    (folder / str(ranks.rank)).mkdir()
    loader = batch_loader(Folder(folder / str(ranks.rank), 10), SAMPLE, **changes)
    batches = Killing(loader, number if ranks.rank == ranks.world_size - 1 else 0)
    start = time.monotonic()
    saved, _, reason = train_here(ranks, folder, system(**SETTINGS), stand_in(), batches)
    return [step for step, *_ in saved], reason, time.monotonic() - start


@pytest.mark.parametrize(("number", "cause"), [("SIGKILL", "Killed"), ("SIGBUS", "Bus error")])
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_worker_that_the_system_kills(tmp_path, world_size, number, cause):
    """Checks that all ranks finish the step, save it, and end with the same message."""
    results = run_ranks(world_size, rank_loses_worker, tmp_path, getattr(signal, number))
    for rank, (saved, reason, seconds) in enumerate(results):
        assert saved == [4]
        where = "" if rank == world_size - 1 else f"rank {world_size - 1}: "
        assert reason.startswith(f"Stopped: {where}the loader failed: DataLoader worker (pid")
        assert f"killed by signal: {cause}" in reason and reason.endswith(HINT)
        assert "\n" not in reason
        assert seconds < 30
