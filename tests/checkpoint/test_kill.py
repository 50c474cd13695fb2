"""The short version of ``make kill-test``."""

import random

import pytest

from tests.support import kill
from tests.support.tiny_training import write_training


@pytest.mark.slow  # each start of train.py imports PyTorch
def test_a_killed_run_comes_to_the_same(tmp_path) -> None:
    write_training(tmp_path)
    assert kill.compare(tmp_path, processes=1, kills=1, rng=random.Random(0)) == []
