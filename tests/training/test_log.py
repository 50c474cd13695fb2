"""The log of a run: the JSON-lines file, the progress bar, TensorBoard."""

import json
import logging
import math
import mmap
import re
import sys
import time
import types
from pathlib import Path

import pytest

from core.config.errors import UserError
from core.training import memory_use
from core.training.log import FILE_NAME, RunLog, Step, read_log
from tests.support.engine_stand_in import system


def open_log(folder, start=0, **settings):
    display = settings.pop("display", 1)
    settings_of_run = system(max_iter=10, display=display)
    return RunLog(folder, settings_of_run, start=start, images=8, **settings)


def step_of(iteration, terms, ended=None, data_time=0.0):
    ended = time.perf_counter() if ended is None else ended
    return Step(iteration, terms, 0.1, 2.5, ended, data_time)


def report(log, steps):
    with log:
        for iteration in steps:
            log.step(step_of(iteration, {"map": 1 / iteration, "offset": 0.5}))


def test_a_line_every_display_steps(tmp_path):
    report(open_log(tmp_path, display=3), range(1, 8))
    lines = read_log(tmp_path / FILE_NAME)
    assert [line["iteration"] for line in lines] == [3, 6]
    assert lines[0]["terms"] == {"map": 1 / 3, "offset": 0.5}
    assert lines[0]["loss"] == 1 / 3 + 0.5
    assert lines[1]["epoch"] == 3.0


def test_lines_of_steps_that_were_undone_are_void(tmp_path):
    report(open_log(tmp_path), range(1, 6))
    report(open_log(tmp_path, start=3, header={"device": "cpu"}), range(4, 6))
    lines = read_log(tmp_path / FILE_NAME)
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4, 5]
    raw = (tmp_path / FILE_NAME).read_text().splitlines()
    assert len([line for line in raw if line]) == 2 + 5 + 2
    report(open_log(tmp_path), range(1, 3))
    assert [line["iteration"] for line in read_log(tmp_path / FILE_NAME)] == [1, 2]


def test_a_line_that_was_cut_short_takes_no_other_with_it(tmp_path):
    report(open_log(tmp_path), range(1, 4))
    file = tmp_path / FILE_NAME
    file.write_text(file.read_text()[:-40])
    report(open_log(tmp_path, start=2), range(3, 5))
    assert [line["iteration"] for line in read_log(file)] == [1, 2, 3, 4]


def test_a_validation_that_is_no_number_is_null(tmp_path):
    with open_log(tmp_path) as log:
        log.validation(1, {"map": float("nan"), "offset": 0.5})
    (line,) = read_log(tmp_path / FILE_NAME)
    assert line["validation"] == {"loss": None, "terms": {"map": None, "offset": 0.5}}
    for text in (tmp_path / FILE_NAME).read_text().splitlines():
        json.loads(text, parse_constant=pytest.fail)


def test_speed_and_data_time_are_those_since_the_last_line(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "perf_counter", lambda: 100.0)
    with open_log(tmp_path, display=2) as log:
        log.step(step_of(1, {"map": 1.0}, ended=101.0, data_time=0.5))
        log.step(step_of(2, {"map": 1.0}, ended=104.0, data_time=1.5))
        log.pause(30.0)
        log.evaluation(2, {"AP": 0.5}, False, 29.0)
        log.step(step_of(3, {"map": 1.0}, ended=135.0))
        log.step(step_of(4, {"map": 1.0}, ended=136.0, data_time=0.5))
    first, evaluated, second = read_log(tmp_path / FILE_NAME)
    assert (first["seconds_per_step"], first["images_per_second"]) == (2.0, 2.0)
    assert first["data_time"] == 1.0
    assert (second["seconds_per_step"], second["images_per_second"]) == (1.0, 4.0)
    assert second["data_time"] == 0.25
    assert evaluated["evaluation"] == {"AP": 0.5}
    assert (evaluated["best"], evaluated["seconds"]) == (False, 29.0)


def test_a_gradient_that_is_no_number_is_null(tmp_path):
    with open_log(tmp_path) as log:
        log.step(Step(1, {"map": 1.0}, 0.1, math.inf, time.perf_counter(), 0.0))
    assert read_log(tmp_path / FILE_NAME)[0]["gradient_norm"] is None


def test_memory_is_that_of_the_process():
    before = memory_use.memory_use()["resident"]
    held = mmap.mmap(-1, 200 * 2**20)  # not of what earlier tests have freed
    for page in range(0, len(held), mmap.PAGESIZE):
        held[page] = 1
    assert 150 * 2**20 < memory_use.memory_use()["resident"] - before < 300 * 2**20


def test_everything_is_in_the_progress_bar(tmp_path, capsys):
    report(open_log(tmp_path), range(1, 11))
    shown = capsys.readouterr().err
    assert "10/10" in shown
    for part in ("loss=0.6", "map=0.1", "offset=0.5", "rate=0.1", "gradient=2.5"):
        assert part in shown
    assert re.search(r"images/s=[\d.e+]+, data=0%, resident=\d\.\d\dGiB", shown)


def test_the_bar_begins_with_the_run(tmp_path, capsys):
    log = open_log(tmp_path)
    assert capsys.readouterr().err == ""
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(handler)
    try:
        with log:
            logging.getLogger().warning("a line of its own")
    finally:
        logging.getLogger().removeHandler(handler)
    assert "a line of its own" in re.split(r"[\r\n]+", capsys.readouterr().err)


def test_tensorboard_gets_every_value(tmp_path, monkeypatch):
    written = {}

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            assert folder == str(tmp_path / "tensorboard")
            assert purge_step == 3

        def add_scalar(self, name, value, iteration):
            written[name, iteration] = value

        def close(self):
            written["closed"] = True

    module = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    with open_log(tmp_path, start=2, tensorboard=True) as log:
        log.step(step_of(3, {"map": 0.25}))
        log.validation(3, {"map": 0.5})
        log.evaluation(3, {"AP": 0.75, "AP_small": None}, True, 2.0)
        both = {"averaged": {"AP": 0.75}, "raw": {"AP": 0.5}}
        log.evaluation(4, {"AP": 0.75}, True, 2.0, ("averaged", both))
    assert written["training/loss", 3] == written["training/map", 3] == 0.25
    assert written["training/learning_rate", 3] == 0.1
    assert written["training/gradient_norm", 3] == 2.5
    assert written["memory/resident", 3] > 2**20
    assert written["validation/map", 3] == 0.5
    assert written["evaluation/AP", 3] == 0.75
    assert ("evaluation/AP_small", 3) not in written
    assert ("evaluation of raw weights/AP", 3) not in written
    assert written["evaluation of raw weights/AP", 4] == 0.5
    assert written["evaluation of averaged weights/AP", 4] == 0.75
    assert read_log(tmp_path / FILE_NAME)[-1] == {
        "iteration": 4,
        "evaluation": {"AP": 0.75},
        "best": True,
        "seconds": 2.0,
        "weights": "averaged",
        "by_weights": both,
    }
    assert written["closed"]


def test_without_tensorboard_nothing_is_opened(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install"):
        open_log(tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_told_once_and_ends_nothing(tmp_path, caplog):
    (tmp_path / FILE_NAME).symlink_to("/dev/full")
    report(open_log(tmp_path), range(1, 4))
    (message,) = caplog.messages
    assert "No space left on device; training goes on" in message


def test_logs_of_older_versions_have_a_data_time_as_well(tmp_path):
    """They say which part of the time was spent waiting."""
    line = {"iteration": 1, "loss": 1.0, "seconds_per_step": 2.0, "waiting": 0.25}
    (tmp_path / FILE_NAME).write_text(json.dumps({"start": 0}) + "\n" + json.dumps(line) + "\n")
    assert read_log(tmp_path / FILE_NAME) == [{**line, "data_time": 0.5}]
