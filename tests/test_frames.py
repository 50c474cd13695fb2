"""The way from the scripts to the network is short: a reader can follow it."""

import sys
from pathlib import Path

import pytest

import evaluate
import train
from core.models.centernet import CenterHourglass
from core.models.cornernet import CornerNet
from tests.support.tiny_training import argv, write_training

ROOT = Path(train.__file__).resolve().parent


def functions_of_ours():
    """Names of the functions of the package on the stack, from the network's caller outwards."""
    frame, names = sys._getframe(2), []
    while frame is not None:
        if Path(frame.f_code.co_filename).is_relative_to(ROOT / "core"):
            names.append(frame.f_code.co_name)
        frame = frame.f_back
    return names


@pytest.fixture
def calls(monkeypatch):
    """The functions of ours around each call of the network, by its mode."""
    found = {}

    def record(kind):
        plain = kind.forward

        def forward(self, *given, **more):
            found.setdefault(self.training, []).append(functions_of_ours())
            return plain(self, *given, **more)

        monkeypatch.setattr(kind, "forward", forward)

    record(CornerNet)
    record(CenterHourglass)
    return found


def test_from_train_py_to_the_network(tmp_path, calls):
    """main, train, train_step; a validation batch and an evaluation are calls in the loop."""
    write_training(tmp_path, eval_iter=4)
    assert train.main(argv(tmp_path)) == 0
    assert calls[True] == [["train_step", "train", "main"]] * 8  # four steps of two chunks
    validations = [names for names in calls[False] if "validate" in names]
    assert validations == [["validate", "train", "main"]] * 4


def test_from_evaluate_py_to_the_network(tmp_path, calls):
    """main, evaluate, the batches, the call of the network."""
    write_training(tmp_path)
    assert train.main(argv(tmp_path, "--initialize")) == 0
    assert evaluate.main(argv(tmp_path)) == 0
    assert calls[False] == [["run", "_launch", "_results", "__call__", "evaluate", "main"]] * 3
