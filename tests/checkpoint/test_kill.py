"""The short version of ``make kill-test``."""

import random

from tests.support import kill
from tests.support.jobs import FORK
from tests.support.tiny_training import write_training


def test_a_killed_run_comes_to_the_same(tmp_path) -> None:
    write_training(tmp_path)
    rng = random.Random(12)  # in the sixth step or soon after it: there is a snapshot
    assert kill.compare(tmp_path, processes=1, kills=1, rng=rng, python=FORK) == []
