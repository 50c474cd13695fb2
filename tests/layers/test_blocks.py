"""Blocks, corner pooling modules, heads and hourglasses by themselves."""

import copy

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from core.layers.blocks import ConvBnRelu, ConvRelu, Residual
from core.layers.corner_pooling import BOTTOM_RIGHT, TOP_LEFT, CornerPooling
from core.layers.fire import Fire
from core.layers.heads import HEATMAP_BIAS, Head
from core.layers.hourglass import (
    Hourglass,
    StackedHourglass,
    nearest_upsample,
    transposed_upsample,
)


def random_map(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("block", [Residual, Fire, ConvBnRelu])
@pytest.mark.parametrize(("stride", "size"), [(1, (7, 10)), (2, (4, 5))])
@pytest.mark.parametrize("channels", [6, 8])
def test_blocks_keep_or_halve_the_size_and_leave_their_input(block, stride, size, channels):
    module = block(6, channels, stride=stride)
    x = random_map(2, 6, 7, 10)
    kept = x.clone()
    y = module(x)
    assert y.shape == (2, channels, *size)
    assert (y >= 0).all() and torch.equal(x, kept)


@pytest.mark.parametrize("block", [Residual, Fire])
def test_blocks_of_one_shape_add_their_input(block):
    """With the last batch norm at zero only the shortcut is left."""
    x = random_map(2, 8, 5, 5)
    same, other = block(8, 8), block(8, 12)
    for module in (same, other):
        nn.init.zeros_(module.bn2.weight)
    torch.testing.assert_close(same(x), F.relu(x))
    assert (other(x) == 0).all() == (block is Fire)


def test_fire_is_linear_up_to_its_last_relu():
    """There is no ReLU between the squeeze and the expansion."""
    fire = Fire(6, 8).eval()
    x = random_map(1, 6, 4, 4)
    assert torch.equal(fire(x).clamp(min=0), fire(x))
    torch.testing.assert_close(fire(x) - fire(-x), _before_relu(fire, x), rtol=1e-4, atol=1e-5)


def _before_relu(fire, x):
    y = fire.bn1(fire.conv1(x))
    return fire.bn2(torch.cat((fire.conv_1x1(y), fire.conv_3x3(y)), 1))


def test_bottom_right_is_top_left_turned_around():
    top_left = CornerPooling(8, 4, TOP_LEFT)
    bottom_right = CornerPooling(8, 4, BOTTOM_RIGHT)
    state = top_left.state_dict()
    bottom_right.load_state_dict(
        {key: value.flip(2, 3) if value.dim() == 4 else value for key, value in state.items()}
    )
    x = random_map(2, 8, 6, 9)
    torch.testing.assert_close(
        bottom_right(x.flip(2, 3)).flip(2, 3), top_left(x), rtol=1e-4, atol=1e-5
    )


def test_top_left_looks_down_and_right():
    """A change below a cell reaches it, a change above it reaches only the convolutions' window."""
    module = CornerPooling(4, 4, TOP_LEFT).eval()
    x = random_map(1, 4, 24, 24)
    for cell, reached in (((22, 4), True), ((4, 22), True), ((22, 22), False)):
        changed = x.clone()
        changed[:, :, cell[0], cell[1]] += 100
        difference = (module(changed) - module(x)).abs().amax((0, 1))
        assert (difference[4, 4] > 0) == reached, cell


@pytest.mark.parametrize("corner", [TOP_LEFT, BOTTOM_RIGHT])
def test_a_corner_is_one_operator(corner):
    """The two maps are pooled and added at once, which is faster than one after the other."""
    module = CornerPooling(4, 4, corner).eval()
    with torch.no_grad():
        graph = make_fx(module)(random_map(1, 4, 8, 8)).graph
    calls = [str(node.target) for node in graph.nodes if "cpools_ext" in str(node.target)]
    assert calls == ["cpools_ext.corner_pool_sum.default"]


def test_head_starts_at_its_bias():
    head = Head(6, 8, 3, kernel=1, bias=HEATMAP_BIAS)
    nn.init.zeros_(head[1].weight)
    y = head(random_map(2, 6, 4, 5))
    assert y.shape == (2, 3, 4, 5)
    torch.testing.assert_close(y.sigmoid(), torch.full_like(y, 0.1), rtol=0, atol=1e-3)
    assert Head(6, 8, 3)[1].bias.abs().max() < 1


def test_conv_relu_leaves_its_input():
    x = random_map(1, 3, 5, 5)
    kept = x.clone()
    ConvRelu(3, 4)(x)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("block", [Residual, Fire])
@pytest.mark.parametrize("upsample", [nearest_upsample, transposed_upsample])
def test_hourglass_gives_its_merged_maps_coarsest_first(block, upsample):
    hourglass = Hourglass([8, 10, 12, 14], [2, 1, 1, 3], block, upsample)
    merged = hourglass(random_map(2, 8, 16, 24))
    assert [tuple(map_.shape[1:]) for map_ in merged] == [(12, 4, 6), (10, 8, 12), (8, 16, 24)]
    assert len(hourglass.low2.low2.low2) == 3 and len(hourglass.up1) == 2


def test_both_upsamplings_double():
    x = random_map(2, 6, 3, 4)
    assert torch.equal(nearest_upsample(6)(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert transposed_upsample(6)(x).shape == (2, 6, 6, 8)


def test_stacks_hand_on_their_features():
    network = StackedHourglass([4, 8], [8, 12], [1, 1], stacks=3, feature_channels=6).eval()
    images = random_map(1, 3, 63, 47)
    outputs = network(images)
    assert [output.features.shape for output in outputs] == [(1, 6, 16, 12)] * 3
    assert all(output.merged[-1].shape == (1, 8, 16, 12) for output in outputs)
    other = copy.deepcopy(network)
    nn.init.zeros_(other.cnvs_[0][0].weight)
    changed = other(images)
    assert torch.equal(changed[0].features, outputs[0].features)
    assert not torch.equal(changed[1].features, outputs[1].features)


def test_one_stack_has_nothing_between():
    network = StackedHourglass([4], [4, 6], [1, 1], stacks=1, feature_channels=4)
    assert not [key for key in network.state_dict() if key.startswith(("inters", "cnvs_"))]
    assert network(random_map(1, 3, 31, 31))[0].features.shape == (1, 4, 16, 16)
