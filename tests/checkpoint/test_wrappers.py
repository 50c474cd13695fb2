"""State dicts as other programs save them, and what the log says about them."""

import logging
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from core.checkpoint.snapshot import load_weights, read_weights
from core.checkpoint.wrappers import unwrap
from core.config.errors import UserError

W = {"body.weight": torch.arange(3.0), "body.bias": torch.ones(1)}
OTHER = {"body.weight": torch.zeros(3), "body.bias": torch.zeros(1)}


def prefixed(prefix, weights=W):
    return OrderedDict((prefix + key, value) for key, value in weights.items())


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (W, ""),
        (prefixed("module."), ""),
        (prefixed("module.module."), "without the prefix module.module."),
        (prefixed("_orig_mod."), "without the prefix _orig_mod."),
        (prefixed("module._orig_mod."), "without the prefix module._orig_mod."),
        (prefixed("_orig_mod.module."), "without the prefix _orig_mod.module."),
        ({"state_dict": W, "epoch": 3}, "the weights are its state_dict"),
        ({"model": W, "optimizer": {"lr": 1}}, "the weights are its model"),
        ({"model_state": W}, "the weights are its model_state"),
        ({"model_state_dict": W}, "the weights are its model_state_dict"),
        ({"ema": {"module": W, "updates": 5}}, "the weights are its ema.module"),
        (
            {"model": OTHER, "ema": {"module": prefixed("module."), "updates": 5}},
            "the weights are its ema.module, which it has beside model",
        ),
        (
            {"state_dict": OTHER, "state_dict_ema": W, "arch": "x"},
            "the weights are its state_dict_ema, which it has beside state_dict",
        ),
        ({"ema": None, "model": W}, "the weights are its model"),
        ({"model": {"state_dict": W}}, "the weights are its model.state_dict"),
        (
            {"state_dict": prefixed("model."), "pytorch-lightning_version": "2.0"},
            "the weights are its state_dict, without the prefix model.",
        ),
    ],
)
def test_what_programs_save(tmp_path, caplog, content, note):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with caplog.at_level(logging.INFO):
        weights = read_weights(path)
    assert caplog.messages == ([f"{path}: {note}"] if note else [])
    assert list(weights) == list(W)
    assert all(torch.equal(weights[key], value) for key, value in W.items())


def test_a_part_that_was_compiled():
    found = unwrap({"body._orig_mod.weight": W["body.weight"], "body.bias": W["body.bias"]})
    assert list(found.weights) == list(W)
    assert found.note == "without the prefix _orig_mod."


def test_a_model_averaged_by_pytorch():
    network = nn.Conv2d(3, 2, 1)
    found = unwrap(AveragedModel(network).state_dict())
    assert list(found.weights) == list(network.state_dict())
    assert found.note == ""


def test_a_prefix_that_not_all_keys_have_is_a_name():
    weights = {"model.weight": torch.ones(1), "head.bias": torch.ones(1)}
    assert unwrap(weights) == (weights, "")


@pytest.mark.parametrize(
    "content", [{}, {"state_dict": {}}, {"model": {"a": 1}}, {"weird": W}, {1: torch.ones(1)}, None]
)
def test_no_weights_at_all(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UserError, match="holds no weights"):
        read_weights(tmp_path / "a.pth")


def test_dictionaries_in_themselves_end():
    content = {"epoch": 1}
    content["model"] = content
    assert unwrap(content) is None


def test_weights_from_before_batches_were_counted(tmp_path, caplog):
    """PyTorch 0.4.0 and older had no num_batches_tracked."""
    old, network = (nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)) for _ in range(2))
    network(torch.randn(2, 3, 4, 4))
    path = tmp_path / "old.pkl"
    torch.save({k: v for k, v in old.state_dict().items() if "num_batches" not in k}, path)
    with caplog.at_level(logging.INFO):
        assert load_weights(network, path, ()) == []
    assert caplog.messages == [f"{path}: batch norms without a count of batches, set to 0: 1"]
    for key, value in old.state_dict().items():
        assert torch.equal(network.state_dict()[key], value), key


def test_a_missing_batch_norm_is_not_a_missing_count(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    path = tmp_path / "part.pkl"
    torch.save({k: v for k, v in network.state_dict().items() if k.startswith("0.")}, path)
    with pytest.raises(UserError, match=r"5 missing: 1\.weight"):
        load_weights(network, path, ())
