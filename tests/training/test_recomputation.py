"""Activations computed twice: less is kept, and nothing else changes."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from core.config.errors import UserError
from core.models.centernet import CenterResNet18, OnResNet18
from core.training.recomputation import recompute_
from tests.support.model_builders import small_detector
from tests.support.network_steps import assert_same_gradients, compute_chunks_

HOURGLASSES = ["CornerNet", "CornerNet_Squeeze", "CornerNet_Saccade", "CenterNet"]
RESNET = "CenterNet-resnet18"
CASES = [*((name, part) for name in HOURGLASSES for part in ("stack", "residual"))]
CASES += ((name, "residual") for name in (RESNET, "CornerNet-lite", "CornerNet-resnet18"))


def new_network(name):
    if name != RESNET:
        return small_detector(name).network
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CenterResNet18(3, OnResNet18(up_channels=(8, 8, 8), head_channels=8))


def images(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 63, 47, generator=generator).to(dtype)


def bytes_kept(network):
    """Memory of what the backward pass reads, weights aside, and that is not computed again."""
    sizes, own = {}, {value.data_ptr() for value in network.parameters()}

    def keep(tensor):
        sizes[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = network(images())
    assert tree_leaves(outputs)
    return sum(size for pointer, size in sizes.items() if pointer not in own)


@pytest.mark.parametrize(("name", "part"), CASES)
def test_gradients_and_statistics_are_the_same(name, part):
    plain = new_network(name).double()
    network = copy.deepcopy(plain)
    recompute_(network, part)
    for each in (plain, network):
        compute_chunks_(each, images(torch.float64))
    assert_same_gradients(network, plain, 1e-12)
    assert list(network.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("part", ["stack", "residual"])
def test_the_same_in_bfloat16_and_channels_last(part):
    plain = new_network("CornerNet").to(memory_format=torch.channels_last)
    network = copy.deepcopy(plain)
    recompute_(network, part)
    for each in (plain, network):
        compute_chunks_(each, images(), precision=torch.bfloat16)
    assert_same_gradients(network, plain, 1e-6)


@pytest.mark.parametrize(("name", "part"), CASES)
def test_less_is_kept(name, part):
    plain = new_network(name)
    network = copy.deepcopy(plain)
    recompute_(network, part)
    assert bytes_kept(network) < 0.7 * bytes_kept(plain)


def test_random_numbers_are_left_alone():
    network = new_network("CenterNet")
    recompute_(network, "residual")
    state = torch.get_rng_state()
    compute_chunks_(network, images())
    assert torch.equal(torch.get_rng_state(), state)


def test_what_an_error_leaves_behind():
    """An error in the second computation must not leave copies in place of the statistics."""
    network = new_network("CenterNet")
    recompute_(network, "residual")
    buffers = dict(network.named_buffers())
    loss = tree_leaves(network(images()))[0].sum()
    for module in network.kps.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loss.backward()
    assert all(value is buffers[key] for key, value in network.named_buffers())
    assert all(
        module.track_running_stats
        for module in network.modules()
        if isinstance(module, nn.BatchNorm2d)
    )


def test_a_copy_has_its_own_weights():
    network = new_network("CenterNet")
    recompute_(network, "stack")
    other = copy.deepcopy(network)
    nn.init.zeros_(other.pre[0].conv.weight)
    for head in other.hm:
        nn.init.zeros_(head[1].weight)
        nn.init.ones_(head[1].bias)
    assert all(maps.heatmap.eq(1).all() for maps in other(images()))
    assert not any(maps.heatmap.eq(1).all() for maps in network(images()))


@pytest.mark.parametrize(
    ("name", "part", "hint"),
    [
        ("FasterRCNN", "residual", "set it to 'none'"),
        (RESNET, "stack", "set it to 'residual' or 'none'"),
    ],
)
def test_a_network_without_such_parts(name, part, hint):
    with pytest.raises(UserError, match=f"system.checkpointing.* '{part}'.*{hint}"):
        recompute_(new_network(name), part)
