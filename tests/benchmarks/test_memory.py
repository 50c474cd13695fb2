"""A training run's memory, its loader workers' too, stays flat."""

import sys
from pathlib import Path

import pytest
import torch

from core.data.loader import training_loader
from core.train import loop as engine
from core.train.log import RunLog
from core.train.optimizer import build_optimizer
from tests.data.test_loader import SAMPLE, Folder, options
from tests.support.engine_stand_in import stand_in, system
from tests.support.own_process import in_own_process, needs_account
from tests.support.tiny_training import words, write_training

sys.path.append(str(Path(__file__).parents[2]))
from benchmarks.memory import Watched, watched_run

pytestmark = needs_account


def batches_of_150_kilobytes(folder):
    """121 of them; after how many the memory was read, and how far it was from that after 40."""
    pictures = Folder(folder, 10)
    loader = training_loader(pictures, SAMPLE, **options(workers=2, batch_size=16))
    watched, detector = Watched(loader), stand_in()
    engine.train(
        detector,
        build_optimizer(detector.network.parameters(), "adam", 0.01),
        watched,
        None,
        start=0,
        system=system(max_iter=121, batch_size=16),
        device=torch.device("cpu"),
        dataset=pictures,
        save=lambda iteration: None,
        log=RunLog(folder / "run", start=0, stop=121, batch_size=16, pictures=10),
    )
    return list(watched.memory), watched.furthest(settled=40)[0]


def test_no_batch_stays_behind(tmp_path):
    """80 batches of 150 kB each would be more than one percent of what the processes have."""
    read, change = in_own_process(batches_of_150_kilobytes, tmp_path)
    assert read == list(range(0, 121, 10))
    assert abs(change) < 0.01


def change_after_100_steps(words):
    return watched_run(words).furthest(settled=100)[0]


@pytest.mark.slow
def test_a_run_with_snapshots_and_validations_stays_flat(tmp_path):
    write_training(tmp_path, max_iter=301, snapshot=50, val_iter=50, workers=2, display=10)
    assert abs(in_own_process(change_after_100_steps, words(tmp_path))) < 0.01
