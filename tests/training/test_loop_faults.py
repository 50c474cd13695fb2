"""Runs that end early: signals, dead workers, losses that are not finite, unreadable images."""

import itertools
import json
import logging
import os
import re
import signal
import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from core.config.errors import UserError
from core.distributed import Stopped
from core.structures import collate
from core.training.failures import NonFiniteLoss
from core.training.log import FILE_NAME, read_log
from tests.support.engine_stand_in import (
    make_batch,
    make_sample,
    stand_in,
    stand_in_run,
    stream,
    system,
    train_stand_in,
)


class Attempt:
    """A run that records its snapshots, and calls ``during(step)`` in the middle of every step."""

    def __init__(self, folder, batches=None, during=lambda step: None, **settings):
        self.detector, self.during = stand_in(), during
        losses, steps = self.detector.losses, itertools.count(1)

        def meddled(outputs, targets):
            terms = losses(outputs, targets)
            return self.during(next(steps)) or terms

        object.__setattr__(self.detector, "losses", meddled)
        self.folder, self.system = folder, system(**{"max_iter": 1000, **settings})
        self.batches = stream() if batches is None else batches
        self.snapshots: list[tuple] = []

    @property
    def saved(self):
        return [iteration for iteration, *_ in self.snapshots]

    @property
    def weights(self):
        return self.snapshots[-1][1]

    def run(self):
        """Trains until something stops it."""
        run = stand_in_run(self.folder, self.system, batches=self.batches, detector=self.detector)
        self.snapshots = run.saved
        train_stand_in(self.folder, run)

    def lines(self):
        return [line["iteration"] for line in read_log(self.folder / FILE_NAME)]


def undisturbed(folder, steps):
    """The weights after so many steps of a run that nothing stops."""
    attempt = Attempt(folder, max_iter=steps)
    attempt.run()
    return attempt.weights


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_saves(tmp_path, number, capfd):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]
    attempt = Attempt(
        tmp_path / "a", during=lambda step: os.kill(os.getpid(), number) if step == 3 else None
    )
    with pytest.raises(Stopped, match=signal.Signals(number).name):
        attempt.run()
    assert attempt.saved == [3]
    assert attempt.lines() == [1, 2, 3]
    whole = undisturbed(tmp_path / "b", 3)
    assert all(torch.equal(attempt.weights[key], value) for key, value in whole.items())
    assert "finishing this step" in capfd.readouterr().err
    after = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]
    assert after == handlers


def test_a_second_interrupt_ends_at_once(tmp_path):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background ignore it

    def twice(step):
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    attempt = Attempt(tmp_path, during=twice)
    with pytest.raises(KeyboardInterrupt):
        attempt.run()
    assert attempt.saved == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_after_a_snapshot_saves_it_once(tmp_path):
    attempt = Attempt(
        tmp_path,
        during=lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 4 else None,
        snapshot=4,
    )
    with pytest.raises(Stopped):
        attempt.run()
    assert attempt.saved == [4]


class NoisePictures(Dataset):
    """A loader's data set; ``fail_at`` raises in the worker."""

    def __init__(self, fail_at=None, error=ValueError):
        self.fail_at, self.error = fail_at, error

    def __len__(self):
        return 100_000

    def __getitem__(self, index):
        if index == self.fail_at:
            raise self.error("the sample is broken")
        return make_sample(None, None, None, None)


def loader(workers, **arguments):
    return DataLoader(
        NoisePictures(**arguments),
        batch_size=4,
        num_workers=workers,
        collate_fn=lambda samples: collate(samples, [0, 1, 2, 3]),
    )


def workers_of_this_process():
    children = f"/proc/{os.getpid()}/task/{os.getpid()}/children"
    if not os.path.exists(children):
        pytest.skip("this system does not list the children of a process")
    with open(children) as file:
        return [int(word) for word in file.read().split()]


def test_a_killed_worker_ends_the_run_within_seconds_and_saves(tmp_path):
    """It is killed in the middle of a step, which is finished: no weight is half updated."""
    before = set(workers_of_this_process())
    killed = []

    def kill(step):
        if step == 3:
            (worker,) = set(workers_of_this_process()) - before
            os.kill(worker, signal.SIGKILL)
            killed.append(time.monotonic())
            time.sleep(0.3)  # its death is known while the step goes on

    attempt = Attempt(tmp_path / "a", loader(1), kill)
    with pytest.raises(Stopped, match=r"worker \(pid \d+\) is killed by signal: Killed"):
        attempt.run()
    assert time.monotonic() - killed[0] < 10
    assert attempt.saved == [3]
    assert attempt.lines() == [1, 2, 3]
    twin = Attempt(tmp_path / "b", loader(0), max_iter=3)
    twin.run()
    assert all(torch.equal(attempt.weights[key], value) for key, value in twin.weights.items())


def test_a_signal_to_the_whole_process_group_is_no_failure(tmp_path):
    before = set(workers_of_this_process())

    def terminate(step):
        if step == 3:
            for process in [*(set(workers_of_this_process()) - before), os.getpid()]:
                os.kill(process, signal.SIGTERM)
            time.sleep(0.3)

    attempt = Attempt(tmp_path, loader(1), terminate)
    with pytest.raises(Stopped, match="SIGTERM"):
        attempt.run()
    assert attempt.saved == [3]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_sample_saves_and_says_where(tmp_path, workers):
    attempt = Attempt(tmp_path, loader(workers, fail_at=8))
    with pytest.raises(Stopped, match="the sample is broken") as caught:
        attempt.run()
    assert isinstance(caught.value.__cause__, ValueError)
    assert attempt.saved == [2]


def test_a_mistake_of_the_user_in_a_sample_stays_one(tmp_path):
    attempt = Attempt(tmp_path, loader(0, fail_at=8, error=UserError))
    with pytest.raises(UserError, match="the sample is broken"):
        attempt.run()
    assert attempt.saved == [2]


def test_a_failure_before_the_first_step_saves_nothing(tmp_path):
    attempt = Attempt(tmp_path, loader(0, fail_at=0))
    with pytest.raises(Stopped):
        attempt.run()
    assert attempt.saved == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("snapshot", [3, 100])
def test_a_loss_that_is_no_number_stops_the_run(tmp_path, value, snapshot):
    """Also where a snapshot is due right after it."""

    def spoil(step):
        if step == 3:
            return {"map": torch.tensor(1.5, requires_grad=True), "offset": _leaf(value)}

    attempt = Attempt(tmp_path, during=spoil, snapshot=snapshot)
    with pytest.raises(NonFiniteLoss) as caught:
        attempt.run()
    assert re.search(rf"step 3 is not finite: map 1.5, offset {value}", str(caught.value))
    assert "images/0000.jpg" in str(caught.value)
    assert attempt.saved == []
    assert attempt.lines() == [1, 2]
    content = json.loads((tmp_path / "non_finite_3.json").read_text())
    assert content["images"] == [f"images/000{row}.jpg" for row in range(4)]
    assert content["terms"] == {"map": "1.5", "offset": str(value)}


def _leaf(value):
    return torch.tensor(value, requires_grad=True)


def test_a_signal_after_a_loss_that_is_no_number_does_not_save(tmp_path):
    def spoil(step):
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            return {"map": _leaf(float("nan"))}

    attempt = Attempt(tmp_path, during=spoil)
    with pytest.raises(NonFiniteLoss):
        attempt.run()
    assert attempt.saved == []


def test_unreadable_images_are_named_once_and_too_many_stop_the_run(tmp_path, caplog):
    caplog.set_level(logging.WARNING)

    def batches():
        for number in itertools.count():
            yield make_batch(number, unreadable=(number, 0))

    attempt = Attempt(tmp_path, batches())
    with pytest.raises(UserError, match="11 of the 1000 images"):
        attempt.run()
    assert attempt.saved == [10]
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 11
    assert "images/0000.jpg" in warnings[0]
