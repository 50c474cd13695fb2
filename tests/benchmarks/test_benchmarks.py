"""Benchmarks are run by hand: these tests show that they fit the code and compare equal work."""

import importlib
import sys
from pathlib import Path

import cv2
import pytest
import torch

from benchmarks import operators
from benchmarks.chart import COLORS, draw_bars
from benchmarks.step import one_image, reference_way
from core.config.errors import UserError
from core.training.step import train_step
from tests.support.engine_stand_in import state, system
from tests.support.model_builders import small_detector

SCRIPTS = sorted(file.stem for file in (Path(__file__).parents[2] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_a_benchmark_imports_is_there(name):
    importlib.import_module(f"benchmarks.{name}")


@pytest.mark.parametrize("name", ["CornerNet", "CornerNet_Saccade"])
def test_a_step_computed_as_the_reference_does_is_the_same(name):
    """Loss terms and gradients, up to the order of additions."""
    detector = small_detector(name, 8, input_size=[63, 63], output_sizes=[[16, 16]])
    detector.network.train()
    results = []
    for each in (detector, reference_way(detector)):
        still = torch.optim.SGD(each.network.parameters(), 0.0)
        training = state(system(batch_size=1), each, still)
        terms, norm = train_step(training, one_image(63))
        gradients = {key: value.grad for key, value in each.network.named_parameters()}
        results.append((terms, norm, gradients))
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-5)


GROUPS = {"forward": {"theirs": 20.0, "ours": 5.0}, "backward": {"theirs": 40.0, "ours": 10.0}}


def test_bars_are_as_long_as_their_values(tmp_path):
    draw_bars(tmp_path / "bars.png", "Times", GROUPS)
    image = cv2.imread(str(tmp_path / "bars.png"))
    theirs, ours = (
        int((image == tuple(bytes.fromhex(color[1:])[::-1])).all(axis=-1).sum())
        for color in COLORS[:2]
    )
    assert ours > 1000 and theirs / ours == pytest.approx(4, rel=0.05)


def test_a_chart_without_matplotlib_is_refused_before_the_measurements(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(sys, "argv", ["operators", "--chart", str(tmp_path / "bars.png")])
    monkeypatch.setattr(operators, "run_module", lambda *_, **__: pytest.fail("measured"))
    with pytest.raises(UserError, match=r"pip install matplotlib"):
        operators.main()
