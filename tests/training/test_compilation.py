"""Compiled training: whole networks in two graphs, the same results, and none without."""

import copy
import logging

import pytest
import torch
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._pytree import tree_leaves

from core.layers.blocks import ConvBnRelu, Residual
from core.layers.corner_pooling import TOP_LEFT, CornerPooling
from core.layers.heads import Head
from core.layers.hourglass import nearest_upsample
from core.models import MODELS
from core.torch_compat import COMPILES_RECOMPUTATION, compile_backward_ahead
from core.training.compilation import compile_
from core.training.recomputation import recompute_
from cpools_ext import corner_pool_sum
from tests.support.model_builders import PYRAMIDS, small_detector
from tests.support.network_steps import assert_same_gradients, compute_chunks_

# Compiling takes a time for each of the layers.
SHALLOW = {"stacks": 1, "blocks": [1, 1, 1]}
SHALLOWER = {"stacks": 1, "blocks": [1, 1], "channels": [16, 24]}
# The layers of others: CornerNet_Lite0 has this backbone, and FasterRCNN-resnet18 the pyramid.
REDUNDANT = {"CornerNet-lite", "FasterRCNN-lite"}


def compilable(name, model=SHALLOW):
    """The part of a small network that is compiled."""
    if name == "FasterRCNN":
        model = {"batch_norm": True}
    elif name in PYRAMIDS:
        model = {}
    detector = small_detector(name, model=model)
    return detector.compilable or detector.network


class EveryKindOnce(nn.Module):
    """One layer of each kind that CornerNet is made of.

    Args:
        few: of those that have several layers inside, the kinds of these alone.
    """

    def __init__(self, few):
        super().__init__()
        self.halved = ConvBnRelu(3, 16, stride=2) if few else Residual(3, 16, stride=2)
        self.doubled = nearest_upsample(16)
        self.corner = Pooled() if few else CornerPooling(16, 16, TOP_LEFT)
        self.heatmap, self.offset = Head(16, 16, 3), Head(16, 16, 2)

    def forward(self, images, cells):
        """Gives the heatmaps, and the offsets at the cells."""
        features = self.halved(images)
        features = self.corner(features + self.doubled(features[:, :, ::2, ::2]))
        return self.heatmap(features), self.offset(features, cells)


class Pooled(nn.Module):
    """A corner pooling without its convolutions."""

    def forward(self, features):
        """Pools them, and what is left of them by a ReLU."""
        return corner_pool_sum(features, features.relu(), "top_left")


def every_kind_once(few=False):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return EveryKindOnce(few)


def cells(name, count, images=2):
    """Cells that a network is given to read, of ``count`` objects an image."""
    index = torch.randint(12, (images, count), generator=torch.Generator().manual_seed(count))
    return {"FasterRCNN": (), "CenterNet": (index,)}.get(name.split("-")[0], (index, index))


def images(dtype=torch.float32, count=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, 63, 47, generator=generator).to(dtype)


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def failing(graph, inputs):
    raise NotImplementedError("no such compiler\nand more")


failing_backward = aot_autograd(fw_compiler=lambda graph, _: graph, bw_compiler=failing)


@pytest.mark.parametrize("name", sorted({*MODELS, *PYRAMIDS} - REDUNDANT))
def test_no_graph_breaks(name):
    network = compilable(name)
    inputs = images(), *cells(name, 3)
    expected = tree_leaves(network(*inputs))
    outputs = torch.compile(network, backend="eager", fullgraph=True)(*inputs)
    for map_, wanted in zip(tree_leaves(outputs), expected, strict=True):
        torch.testing.assert_close(map_, wanted)


def test_another_number_of_objects_takes_no_other_graph():
    network = compilable("CornerNet", SHALLOWER)
    counter = CompileCounterWithBackend("eager")
    compile_(network, counter)
    for count in (3, 5, 2, 7):
        maps = network(images(), *cells("CornerNet", count))[0]
        assert maps.tl_offset.shape == (2, count, 2)
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    "part",
    [
        "none",
        pytest.param(
            "residual",
            marks=pytest.mark.skipif(
                not COMPILES_RECOMPUTATION, reason="this PyTorch does it wrongly"
            ),
        ),
    ],
)
def test_chunks_take_two_graphs_and_give_the_same(part):
    plain = every_kind_once().double()
    network = copy.deepcopy(plain)
    if part != "none":
        recompute_(network, part)
    counter = CompileCounterWithBackend("aot_eager")
    compile_(network, counter)
    for each in (plain, network):
        compute_chunks_(each, images(torch.float64), times=4, cells=cells("CenterNet", 3))
    assert_same_gradients(network, plain, 1e-12)
    assert counter.frame_count == 2  # with running statistics and without
    assert list(network.state_dict()) == list(plain.state_dict())


@pytest.mark.slow
def test_compiled_to_native_code_in_channels_last():
    """A C++ compiler takes a second for each layer, pass and precision."""
    exact = every_kind_once(few=True).double()
    plain = copy.deepcopy(exact).float().to(memory_format=torch.channels_last)
    network = copy.deepcopy(plain)
    compile_(network)
    generator = torch.Generator().manual_seed(0)
    for count in (3, 2, 50):  # of objects
        index = torch.randint(32 * 24, (8, count), generator=generator)
        chunk = {"times": 1, "cells": (index,)}
        for each in (exact, network):
            each.zero_grad()
        compute_chunks_(exact, images(torch.float64, count=8), **chunk)
        compute_chunks_(network, images(count=8), **chunk)
        assert_same_gradients(network, exact, 1e-4)
    network.zero_grad()
    for each in (plain, network):
        compute_chunks_(each, images(count=8), precision=torch.bfloat16, **chunk)
    assert mean_error(network, exact) <= 1.2 * mean_error(plain, exact)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_layout_stays_that_of_the_weights(layout, monkeypatch):
    """PyTorch's compiler would take channels_last on every CPU, which is slow on many."""
    given = []
    monkeypatch.setattr(torch, "compile", lambda run, **options: given.append(options) or run)
    network = compilable("CornerNet", SHALLOWER).to(memory_format=layout)
    compile_(network)
    channels_last = layout == torch.channels_last
    assert given == [{"backend": "inductor", "options": {"layout_optimization": channels_last}}]


def mean_error(network, exact):
    """Of the parameters' gradients, each relative to its norm."""
    wanted = dict(exact.named_parameters())
    errors = [
        (value.grad - wanted[key].grad).norm() / wanted[key].grad.norm()
        for key, value in network.named_parameters()
    ]
    return torch.stack(errors).mean()


@pytest.mark.parametrize(
    "backend",
    [
        failing,
        pytest.param(
            failing_backward,
            marks=pytest.mark.skipif(
                not compile_backward_ahead(), reason="this PyTorch compiles it too late"
            ),
        ),
    ],
)
def test_a_failing_compiler_is_one_warning(backend, caplog):
    plain = compilable("FasterRCNN")
    network = copy.deepcopy(plain)
    compile_(network, backend)
    for each in (plain, network):
        compute_chunks_(each, images())
    assert_same_gradients(network, plain, 0)
    (warning,) = warnings(caplog)
    assert "training goes on without" in warning
    assert "no such compiler" in warning


def test_a_compiler_that_fails_later(caplog):
    """Other inputs may be too much for it."""
    network = compilable("FasterRCNN")
    backends = iter([lambda graph, inputs: graph, failing])
    compile_(network, lambda graph, inputs: next(backends)(graph, inputs))
    for count in (2, 3, 4):
        expected = copy.deepcopy(network)(images(count=count))
        torch.testing.assert_close(network(images(count=count)), expected)
    assert len(warnings(caplog)) == 1


def test_a_system_without_a_compiler(monkeypatch, caplog):
    def compile_nothing(*arguments, **options):
        raise RuntimeError("torch.compile is not supported here")

    monkeypatch.setattr(torch, "compile", compile_nothing)
    network = compilable("FasterRCNN")
    compile_(network, warn=False)  # another rank does
    assert not warnings(caplog)
    compile_(network)
    assert network(images()).shape == (2, 16, 15, 11)
    assert "not supported here" in caplog.text


def test_evaluation_is_not_compiled():
    network = compilable("FasterRCNN")
    compile_(network, lambda graph, inputs: pytest.fail("compiled"))
    network.eval()(images())


def test_a_copy_has_its_own_weights():
    network = compilable("FasterRCNN")
    compile_(network, "eager")
    other = copy.deepcopy(network)
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    assert other(images()).eq(0).all()
    assert not network(images()).eq(0).all()
