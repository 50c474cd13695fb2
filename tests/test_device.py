"""Where networks run, and what is said of it."""

import pytest
import torch
from tiny_training import words, write_training

from core import description, device, training
from core.config import load_config


def test_a_network_that_would_overrun_keeps_the_contiguous_layout() -> None:
    for channels, channels_last in ((4, False), (8, True)):
        network = torch.nn.Conv2d(channels, 16, 1, stride=2)
        network.weight.data = torch.randn(16, channels, 1, 1)
        wide = torch.nn.Sequential(network, torch.nn.Conv2d(16, 8, 3))
        device.place_(wide, torch.device("cpu"), channels_last=True)
        weight = wide[1].weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last


def test_slow_bfloat16_is_said(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_training(tmp_path, max_iter=1)
    name, *_ = words(tmp_path)
    for precision, slow, said in (
        ("bfloat16", True, True),
        ("bfloat16", False, False),
        ("float32", True, False),
    ):
        config = load_config(name, overrides=[f"system.precision={precision}"])
        run = training.prepare(config, torch.device("cpu"))
        monkeypatch.setattr(description, "slow_in_bfloat16", lambda _, slow=slow: slow)
        assert any("system.precision=float32" in line for line in description.describe(run)) == said
