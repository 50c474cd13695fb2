"""Batch norm with what follows it: the same by kernels and layer by layer."""

import copy
import math

import pytest
import torch
from torch import nn

from core.layers import norm as module
from core.layers.norm import Layers, norm


def layer_and_maps():
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(8, momentum=0.2)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return layer, *(torch.randn(2, 8, 3, 5, requires_grad=True) for _ in range(2))


def results(layer, *inputs):
    y = norm(layer, *inputs)
    tensors = [each for each in (*inputs, *layer.parameters()) if isinstance(each, torch.Tensor)]
    grads = torch.autograd.grad(y.square().sum(), tensors)
    return [y, *grads, *(each.clone() for each in layer.buffers())]


@pytest.fixture
def by_kernels(monkeypatch):
    """Takes the way of a GPU; the operator runs in standard PyTorch."""
    monkeypatch.setattr(module, "is_native", lambda x, added: True)


@pytest.mark.parametrize("ceiling", [None, math.inf, 0.5])
@pytest.mark.parametrize("adds", [False, True])
def test_kernels_and_layers_agree(monkeypatch, adds, ceiling):
    layer, x, added = layer_and_maps()
    for _ in range(2):  # the second time with statistics that do not move
        inputs = (x, added if adds else None, ceiling)
        wanted = results(copy.deepcopy(layer), *inputs)
        with monkeypatch.context() as context:
            context.setattr(module, "is_native", lambda x, added: True)
            found = results(copy.deepcopy(layer), *inputs)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        layer.track_running_stats = False


@pytest.mark.parametrize("change", ["eval", "momentum", "affine", "kind"])
def test_others_are_computed_as_they_are(by_kernels, monkeypatch, change):
    monkeypatch.setattr(module, "batch_norm", None)  # would fail
    layer, x, _ = layer_and_maps()
    if change == "eval":
        layer.eval()
    elif change == "momentum":
        layer.momentum = None
    elif change == "affine":
        layer = nn.BatchNorm2d(8, affine=False)
    else:
        layer = nn.GroupNorm(2, 8)
    torch.testing.assert_close(norm(layer, x, None, math.inf), layer(x).relu())


@pytest.mark.parametrize("relu", [nn.ReLU(inplace=True), nn.ReLU6(), nn.Identity()])
def test_layers_are_a_sequence(monkeypatch, relu):
    torch.manual_seed(0)
    parts = (nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), relu, nn.ReLU(), nn.Conv2d(4, 4, 1))
    x, layers = torch.randn(2, 3, 4, 4) * 9, Layers(*parts, nn.BatchNorm2d(4))
    plain = nn.Sequential(*copy.deepcopy(layers))
    fused = []
    monkeypatch.setattr(
        module,
        "norm",
        lambda layer, x, ceiling: fused.append(ceiling) or norm(layer, x, None, ceiling),
    )
    torch.testing.assert_close(layers(x), plain(x))
    assert fused == [module.ceiling_of(relu), None]
    assert list(layers.state_dict()) == list(plain.state_dict())
