"""Batches until somebody asks for the end; several ranks are tested in test_ranks and with the
training loop."""

import pytest

from core.data.loader import LOST_WORKER
from core.distributed import ONE_PROCESS, Stopped, Stream
from tests.support.engine_stand_in import StandInImages

KILLED = f"{LOST_WORKER} 7) is killed by signal: Killed."


class LateDeath:
    """Signals by which a worker's death is known at the ``checks``-th check after a failure."""

    asked = None

    def __init__(self, checks):
        self.checks = checks

    def worker_death(self):
        self.checks -= 1
        return KILLED if self.checks < 0 else None


def failing(error):
    raise error
    yield


@pytest.mark.parametrize(
    ("error", "checks", "message"),
    [
        (EOFError("pipe closed"), 2, "is killed by signal"),
        (EOFError("pipe closed"), 100, "failed: pipe closed$"),
        (RuntimeError(f"{LOST_WORKER}(s) 7) exited unexpectedly"), 4, "is killed by signal"),
        (RuntimeError(f"{LOST_WORKER}(s) 7) exited unexpectedly"), 100, "exited unexpectedly"),
    ],
)
def test_the_death_behind_a_failure_may_be_known_a_moment_later(error, checks, message):
    stream = Stream(failing(error), StandInImages(), LateDeath(checks), ONE_PROCESS)
    with pytest.raises(Stopped, match=message):
        stream.take()
