"""A training run's memory, its loader workers' too, stays flat."""

import pytest

from benchmarks.memory import Watched, watched_run
from core.data.loader import batch_loader
from tests.data.test_loader import SAMPLE, Folder, options
from tests.support.engine_stand_in import stand_in_run, system, train_stand_in
from tests.support.own_process import in_own_process, needs_account
from tests.support.tiny_training import argv, write_training

pytestmark = needs_account


def batches_of_150_kilobytes(folder):
    """Trains on 121; returns after how many memory was read, and its change after the 40th."""
    images = Folder(folder, 10)
    watched = Watched(batch_loader(images, SAMPLE, **options(workers=2, batch_size=16)))
    settings = system(max_iter=121, batch_size=16)
    train_stand_in(folder, stand_in_run(folder, settings, batches=watched, dataset=images))
    return list(watched.memory), watched.furthest(settled=40)[0]


def test_no_batch_stays_behind(tmp_path):
    """80 batches of 150 kB each would be more than one percent of what the processes have."""
    read, change = in_own_process(batches_of_150_kilobytes, tmp_path)
    assert read == list(range(0, 121, 10))
    assert abs(change) < 0.01


def change_after_50_steps(argv):
    return watched_run(argv).furthest(settled=50)[0]


@pytest.mark.slow
def test_a_run_with_snapshots_and_validations_stays_flat(tmp_path):
    settings = {"max_iter": 111, "snapshot": 25, "val_iter": 25, "workers": 2, "display": 10}
    write_training(tmp_path, chunk_sizes=[3], **settings)
    given = argv(tmp_path, "--set", "model.stacks=1")
    assert abs(in_own_process(change_after_50_steps, given)) < 0.01
