"""How `cornerkit new` measures: in which processes, for how long, and what it reports."""

import json
import logging
import subprocess
import time
from types import SimpleNamespace

import pytest
import torch

from core.config.errors import UserError
from core.distributed import ONE_PROCESS
from core.tools import new_timing
from core.tools.new_choice import Speed
from core.training import graphs
from core.training.step import train_step
from tests.support import tiny_models
from tests.support.some_ranks import run_processes
from tests.support.tiny_models import LITE
from tests.support.tiny_training import argv, write_training


class Clock:
    """Stands for the module ``time``; steps advance it."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now

    time = perf_counter


def train_for(monkeypatch, durations, seconds=1.0, least=3):
    """Number and seconds of the steps, which take so long one after the other."""
    clock, steps = Clock(), iter(durations)

    def step(batch, iteration):
        clock.now += next(steps)
        return {}, torch.tensor(1.0)

    monkeypatch.setattr(new_timing, "time", clock)
    return new_timing._train(step, ONE_PROCESS, iter(range(1000)), seconds, least)


def test_steps_are_measured_for_some_seconds_and_slow_ones_not_long(monkeypatch):
    assert train_for(monkeypatch, [0.125] * 99) == (8, 1.0)
    assert train_for(monkeypatch, [0.4375] * 99) == (3, 1.3125)
    assert train_for(monkeypatch, [0.875] * 99) == (2, 1.75)
    assert train_for(monkeypatch, [50.0] * 99) == (1, 50.0)


def test_the_start_includes_what_the_first_steps_take_longer(monkeypatch):
    clock = Clock()
    steps = iter([3.0, 0.5, *[0.5] * 99])

    def step(batch, iteration):
        clock.now += next(steps)
        return {}, torch.tensor(1.0)

    monkeypatch.setattr(new_timing, "time", clock)
    monkeypatch.setattr(new_timing, "choose_step", lambda run: step)
    network = SimpleNamespace(train=lambda: None)
    run = SimpleNamespace(ranks=ONE_PROCESS, network=network, batches=lambda: range(1000))
    assert new_timing._measure_steps(run, 6.0) == (0.5, 102.5)


def test_a_config_is_measured(tmp_path):
    write_training(tmp_path, eval_iter=0, val_iter=0)
    result = tmp_path / "speed.json"
    config, *device = argv(tmp_path)
    times = ["--begun", repr(time.time() - 1000), "--seconds", "0.05"]
    start = time.perf_counter()
    assert new_timing.main([config, str(result), *times, *device]) == 0
    passed = time.perf_counter() - start
    speed = Speed(**json.loads(result.read_text()))
    assert 0 < speed.step < passed / 2 and 0 < speed.image < passed / 2
    assert 1000 - passed < speed.start < 1000 + passed
    assert not list((tmp_path / "cache").rglob("*.pkl"))


def test_stages_that_are_frozen_for_some_steps_train(tmp_path, monkeypatch):
    """The steps after them take longer, and are more."""
    trained = []

    def note(run, batch, iteration):
        found = train_step(run, batch, iteration)
        trained.append([x.grad is not None for x in run.network.parameters()])
        return found

    monkeypatch.setattr(graphs, "train_step", note)
    tiny_models.write(tmp_path, LITE, eval_iter=0, val_iter=0, frozen_stages=2, frozen_steps=9)
    config, *device = tiny_models.of(tmp_path, LITE)
    times = ["--begun", "0", "--seconds", "0.05"]
    assert new_timing.main([config, str(tmp_path / "speed.json"), *times, *device]) == 0
    assert trained and all(map(all, trained))


def test_two_processes_measure_the_same_steps(tmp_path):
    """Each makes its half of the batch, and both end after the same step."""
    write_training(tmp_path, eval_iter=0, val_iter=0)
    config, *device = argv(tmp_path)
    given = [config, str(tmp_path / "speed.json"), "--begun", "0", "--seconds", "0.05", *device]
    assert run_processes(2, new_timing.main, given) == [0, 0]
    assert Speed(**json.loads((tmp_path / "speed.json").read_text())).step > 0


@pytest.fixture
def started(monkeypatch):
    """Makes processes that end with an error or a speed, and gives their commands."""
    commands = []

    def end_with(errors, speed=None):
        def run(command, *, env, **_):
            commands.append((command, env))
            at = command.index("core.tools.new_timing")
            config, result = command[at + 1 : at + 3]
            with open(config) as file:
                commands[-1] += (json.load(file),)
            if speed is not None:
                with open(result, "w") as file:
                    json.dump(vars(speed), file)
            return subprocess.CompletedProcess(command, 0, "", errors)

        monkeypatch.setattr(subprocess, "run", run)
        return commands

    return end_with


CONTENT = {"system": {"batch_size": 2, "cache_dir": "mine"}, "db": {}, "model": {}}


def test_the_processes_and_their_threads(started):
    speed = Speed(0.1, 0.2, 3.0)
    commands = started("", speed)
    assert new_timing.measure(CONTENT, "CornerNet-x", 1, 4) == speed
    assert new_timing.measure(CONTENT, "CornerNet-x", 2, 5, "cpu") == speed
    (one, one_env, content), (two, two_env, _) = commands
    assert one[1:3] == ["-m", "core.tools.new_timing"] and one[3].endswith("CornerNet-x.json")
    assert "--device" not in one and two[-2:] == ["--device", "cpu"]
    assert two[1:4] == ["-m", "torch.distributed.run", "--standalone"]
    assert two[4:7] == ["--nproc-per-node=2", "-m", "core.tools.new_timing"]
    assert (one_env["OMP_NUM_THREADS"], two_env["OMP_NUM_THREADS"]) == ("4", "2")
    assert content["system"]["batch_size"] == 2 and content["system"]["cache_dir"] != "mine"


def test_processes_that_fail(started, caplog):
    error = "a line\nerror: there is no dog\n"
    started(error)
    with pytest.raises(UserError, match=r"^there is no dog$"):
        new_timing.measure(CONTENT, "x", 1, 2)
    with caplog.at_level(logging.WARNING):
        assert new_timing.measure(CONTENT, "x", 2, 2) is None
    assert caplog.messages == ["2 processes were not measured: there is no dog"]
    started("Traceback\nValueError: 7\n")
    with pytest.raises(RuntimeError, match="ValueError: 7"):
        new_timing.measure(CONTENT, "x", 1, 2)
