"""Benchmarks are run by hand; that they fit the code, and compare like with like, is seen here."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from core.train.step import train_step
from tests.support.engine_stand_in import system
from tests.support.model_builders import small_detector

sys.path.append(str(Path(__file__).parents[2]))
from benchmarks.step import one_picture, reference_way

SCRIPTS = sorted(file.stem for file in (Path(__file__).parents[2] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_a_benchmark_imports_is_there(name):
    importlib.import_module(f"benchmarks.{name}")


@pytest.mark.parametrize("name", ["CornerNet", "CornerNet_Saccade"])
def test_a_step_made_the_reference_s_way_is_the_same(name):
    """Loss terms and gradients, up to the order of additions."""
    detector = small_detector(name, 8, input_size=[63, 63], output_sizes=[[16, 16]])
    detector.network.train()
    other, _ = reference_way(detector)
    batch, results = one_picture(63), []
    for each in (detector, other):
        still = torch.optim.SGD(each.network.parameters(), 0.0)
        terms, norm = train_step(each, still, batch, system(batch_size=1), torch.device("cpu"))
        gradients = {key: value.grad for key, value in each.network.named_parameters()}
        results.append((terms, norm, gradients))
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-5)
