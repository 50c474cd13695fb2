"""What a run reports: the JSON-lines file, the progress bar, TensorBoard."""

import json
import sys
import types

import pytest

from core.errors import UserError
from core.log import FILE_NAME, RunLog, read_log


def open_log(folder, start=0, **settings):
    return RunLog(folder, start=start, stop=10, batch_size=4, pictures=8, **settings)


def report(log, steps):
    with log:
        for step in steps:
            log.step(step, {"map": 1 / step, "offset": 0.5}, 0.1)


def test_a_line_every_display_steps(tmp_path):
    report(open_log(tmp_path, display=3), range(1, 8))
    lines = read_log(tmp_path / FILE_NAME)
    assert [line["iteration"] for line in lines] == [3, 6]
    assert lines[0]["terms"] == {"map": 1 / 3, "offset": 0.5}
    assert lines[0]["loss"] == 1 / 3 + 0.5
    assert lines[1]["epoch"] == 3.0


def test_lines_of_steps_that_were_undone_are_void(tmp_path):
    report(open_log(tmp_path), range(1, 6))
    report(open_log(tmp_path, start=3, facts={"device": "cpu"}), range(4, 6))
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


def test_every_term_is_in_the_progress_bar(tmp_path, capsys):
    report(open_log(tmp_path), range(1, 11))
    shown = capsys.readouterr().err
    assert "10/10" in shown
    for part in ("loss=0.6", "map=0.1", "offset=0.5"):
        assert part in shown


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
        log.step(3, {"map": 0.25}, 0.1)
        log.validation(3, {"map": 0.5})
    assert written["training/loss", 3] == written["training/map", 3] == 0.25
    assert written["training/learning_rate", 3] == 0.1
    assert written["validation/map", 3] == 0.5
    assert written["closed"]


def test_without_tensorboard_nothing_is_opened(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install"):
        open_log(tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()
