"""A training run's memory, its loader workers' too, stays flat."""

import sys
from pathlib import Path

import pytest
import torch
from engine_stand_in import stand_in, system
from test_sample_loader import SAMPLE, Folder, options
from tiny_training import words, write_training

from core import engine
from core.log import RunLog
from core.sample.loader import training_loader
from core.schedule import build_optimizer

sys.path.append(str(Path(__file__).parent.parent))
from benchmarks.memory import Watched, watched_run

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="reads Linux's account of memory"
)


def test_no_batch_stays_behind(tmp_path):
    """80 batches of 150 kB each would be more than one percent of what the processes have."""
    pictures = Folder(tmp_path, 10)
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
        database=pictures,
        save=lambda iteration: None,
        log=RunLog(tmp_path / "run", start=0, stop=121, batch_size=16, pictures=10),
    )
    assert list(watched.memory) == list(range(0, 121, 10))
    assert watched.change(settled=40) < 0.01


@pytest.mark.slow
def test_a_run_with_snapshots_and_validations_stays_flat(tmp_path):
    write_training(tmp_path, max_iter=301, snapshot=50, val_iter=50, workers=2, display=10)
    assert watched_run(words(tmp_path)).change(settled=100) < 0.01
