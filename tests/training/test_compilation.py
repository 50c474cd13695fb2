"""Compiled training: each kind of block once a shape, the same results, and none without."""

import copy
import logging
import threading
from dataclasses import replace
from functools import partial

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._pytree import tree_leaves
from torchvision.models.resnet import BasicBlock, Bottleneck

from core.layers.backbones import Backbone, InvertedResidual
from core.layers.blocks import ConvBnRelu, ConvRelu, Residual, conv_bn
from core.layers.corner_pooling import TOP_LEFT, CornerPooling
from core.layers.cross_star import CrossStarConv
from core.layers.fire import Fire
from core.layers.heads import Head
from core.layers.hourglass import nearest_upsample
from core.layers.norm import Layers
from core.losses.focal import focal_loss
from core.torch_compat import compile_backward_ahead
from core.training.compilation import blocks_of, compile_, compile_detector_
from core.training.recomputation import recompute_
from cpools_ext import corner_pool_sum
from tests.support.model_builders import SMALL, small_detector
from tests.support.model_losses import image_batch, losses
from tests.support.network_steps import assert_same_gradients, compute_chunks_

MAP = torch.randn(2, 16, 8, 6, generator=torch.Generator().manual_seed(0))
# Blocks, and what each is given here.
BLOCKS = {
    Residual: (lambda: Residual(16, 16), [MAP]),
    Fire: (lambda: Fire(16, 16), [MAP]),
    ConvBnRelu: (lambda: ConvBnRelu(16, 4), [MAP]),
    Head: (lambda: Head(16, 8, 4), [MAP]),
    CornerPooling: (lambda: CornerPooling(16, 8, TOP_LEFT), [MAP]),
    BasicBlock: (lambda: BasicBlock(16, 16), [MAP]),
    Bottleneck: (lambda: Bottleneck(16, 4), [MAP]),
    InvertedResidual: (lambda: InvertedResidual(16, 8, 6, 5, 2), [MAP]),
    nn.Sequential: (lambda: conv_bn(16, 8), [MAP]),
}


def compilable(name):
    """The part of a small network that is compiled."""
    detector = small_detector(name, model={"batch_norm": True} if name == "FasterRCNN" else {})
    return detector.compilable or detector.network


class SomeBlocks(nn.Module):
    """Blocks that CornerNet is made of, one of them twice.

    Args:
        few: without those that have several layers inside, and none twice.
    """

    def __init__(self, few):
        super().__init__()
        self.halved = ConvBnRelu(3, 16, stride=2) if few else Residual(3, 16, stride=2)
        self.repeated = nn.Sequential(*(ConvBnRelu(16, 16) for _ in range(0 if few else 2)))
        self.doubled = nearest_upsample(16)
        self.corner = Pooled() if few else CornerPooling(16, 16, TOP_LEFT)
        self.heatmap, self.offset = Head(16, 16, 3), Head(16, 16, 2)

    def forward(self, images, cells):
        """Gives the heatmaps, and the offsets at the cells."""
        features = self.repeated(self.halved(images))
        features = self.corner(features + self.doubled(features[:, :, ::2, ::2]))
        return self.heatmap(features), self.offset(features, cells)


class Pooled(nn.Module):
    """A corner pooling without its convolutions."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, features):
        """Pools them, and what is left of them by a ReLU."""
        return corner_pool_sum(features, self.relu(features), TOP_LEFT)


def some_blocks(few=False):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SomeBlocks(few)


def cells(count):
    """Cells that a network is given to read, of ``count`` objects an image."""
    return torch.randint(12, (2, count), generator=torch.Generator().manual_seed(count))


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


@pytest.mark.parametrize("kind", BLOCKS, ids=lambda kind: kind.__name__)
def test_no_graph_breaks(kind, caplog):
    make, inputs = BLOCKS[kind]
    block, counter = make(), CompileCounterWithBackend("eager")
    expected = tree_leaves(copy.deepcopy(block)(*inputs))
    compile_(block, counter)
    for map_, wanted in zip(tree_leaves(block(*inputs)), expected, strict=True):
        torch.testing.assert_close(map_, wanted)
    assert counter.frame_count == 1 and not warnings(caplog)


@pytest.mark.parametrize("name", SMALL)
def test_every_network_is_made_of_these_blocks(name):
    """Of its batch norms, only those of ResNets' first convolutions are in none of them.

    In training, a CrossStarConv computes windows alone, and that is not compiled.
    """
    network = compilable(name)
    blocks = list(blocks_of(network))
    assert {type(block) for block in blocks} <= {*BLOCKS, Layers, Backbone, CrossStarConv}
    inside = [layer for block in blocks for layer in block.modules()]
    assert len(inside) == len(set(inside))
    outside = {key for key, layer in network.named_modules() if layer not in inside}
    norms = [key for key in outside if isinstance(network.get_submodule(key), nn.BatchNorm2d)]
    assert [key.split(".")[-1] for key in norms] == ["bn1"] * ("resnet18" in name)


def test_as_many_compilations_as_shapes(caplog):
    """More than the compiler allows by itself, each for several blocks."""
    widths = range(1, 13)
    chains = nn.ModuleList(
        nn.Sequential(*(ConvRelu(width, width, 1) for _ in range(3))) for width in widths
    )
    counter = CompileCounterWithBackend("eager")
    compile_(chains, counter)
    for _ in range(2):
        for chain, width in zip(chains, widths, strict=True):
            chain(torch.ones(1, width, 2, 2, requires_grad=True))
    assert counter.frame_count == len(widths) and not warnings(caplog)


def compute_in_a_thread_(network, **chunks):
    """As on a GPU, where the backward pass has a thread of its own, with settings of its own."""
    errors = []

    def compute():
        try:
            compute_chunks_(network, images(torch.float64), **chunks)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    assert errors == []


@pytest.mark.parametrize("part", ["none", "residual"])
def test_chunks_take_two_compilations_and_give_the_same(part):
    plain = some_blocks().double()
    network = copy.deepcopy(plain)
    counter = CompileCounterWithBackend("aot_eager")
    compile_(network, counter)
    if part != "none":
        recompute_(network, part)
    chunks = {"times": 4, "cells": (cells(3),)}
    compute_chunks_(plain, images(torch.float64), **chunks)
    compute_chunks_(network, images(torch.float64), **chunks)
    assert_same_gradients(network, plain, 1e-12)
    assert counter.frame_count == 2 * 3 + 1  # batch norms with running statistics and without
    compute_in_a_thread_(network, **chunks)
    assert counter.frame_count == 2 * 3 + 1
    assert list(network.state_dict()) == list(plain.state_dict())


@pytest.mark.slow
def test_compiled_to_native_code_in_channels_last():
    """A C++ compiler takes a second for each layer, pass and precision."""
    exact = some_blocks(few=True).double()
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
    compile_(ConvRelu(3, 16).to(memory_format=layout))
    channels_last = layout == torch.channels_last
    assert given[0]["options"] == {"layout_optimization": channels_last}


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
    plain = compilable("FasterRCNN")
    network = copy.deepcopy(plain)
    backends = iter([lambda graph, inputs: graph, failing])
    compile_(network, lambda graph, inputs: next(backends)(graph, inputs))
    for count in (2, 3, 4):
        expected = plain(images(count=count))
        torch.testing.assert_close(network(images(count=count)), expected)
    assert len(warnings(caplog)) == 1


def test_activations_are_computed_again_as_before_a_failure(caplog):
    """The compiler fails at the second of two blocks, after the first was compiled."""
    plain = nn.Sequential(Residual(3, 4), Residual(4, 5))
    network = copy.deepcopy(plain)
    backends = iter([aot_autograd(fw_compiler=lambda graph, _: make_boxed_func(graph)), failing])
    compile_(network, lambda graph, inputs: next(backends)(graph, inputs))
    recompute_(network, "residual")
    for each in (plain, network):
        compute_chunks_(each, images())
    assert_same_gradients(network, plain, 1e-5)
    assert len(warnings(caplog)) == 1


def test_a_system_without_a_compiler(monkeypatch, caplog):
    def compile_nothing(*arguments, **options):
        raise RuntimeError("torch.compile is not supported here")

    monkeypatch.setattr(torch, "compile", compile_nothing)
    compile_(compilable("FasterRCNN"), warn=False)  # another rank does
    assert not warnings(caplog)
    network = compilable("FasterRCNN")
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


@pytest.mark.parametrize("name", sorted(SMALL))
def test_losses_of_heatmaps_can_be_computed_in_another_way(name):
    detector = small_detector(name)
    read = []

    def focal(logits, *targets):
        read.append(logits)
        return 2 * focal_loss(logits, *targets)

    terms = losses(detector, image_batch(name, 2))
    other = replace(detector, losses=partial(detector.losses, focal=focal))
    doubled = losses(other, image_batch(name, 2))
    changed = {key for key, value in terms.items() if not torch.equal(value, doubled[key])}
    heatmaps = [] if name.startswith("FasterRCNN") else ["heatmap"]
    assert changed == {*heatmaps, *(["attention"] if "Saccade" in name else [])}
    assert bool(read) == bool(changed)


def test_a_compiled_detector_has_compiled_losses():
    name = "CenterNet"
    detector, given = small_detector(name), image_batch(name, 2)
    detector.network.eval()  # which is not compiled
    expected = losses(detector, given)
    counter = CompileCounterWithBackend("eager")
    compiled = compile_detector_(detector, counter)
    torch.testing.assert_close(losses(compiled, given), expected)
    assert counter.frame_count == 1
    with torch.no_grad():  # a validation
        losses(compiled, given[:1])
    assert counter.frame_count == 1
