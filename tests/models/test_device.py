"""Devices and memory layouts of networks, and the messages about them."""

import pytest
import torch

from core.config.errors import UserError
from core.config.loading import load_config
from core.evaluation import command as evaluate
from core.models import device
from core.training import command as train
from core.training.run import prepare
from tests.support.tiny_training import argv, write_training


def test_a_network_that_would_overrun_keeps_the_contiguous_layout() -> None:
    for channels, channels_last in ((4, False), (8, True)):
        network = torch.nn.Conv2d(channels, 16, 1, stride=2)
        network.weight.data = torch.randn(16, channels, 1, 1)
        wide = torch.nn.Sequential(network, torch.nn.Conv2d(16, 8, 3))
        device.move_to_device_(wide, torch.device("cpu"), channels_last=True, training=True)
        weight = wide[1].weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last


@pytest.mark.parametrize(
    ("name", "kernels", "training", "channels_last"),
    [
        ("cpu", "AVX2", True, False),
        ("cpu", "AVX2", False, True),
        ("cpu", "AVX512", True, True),
        ("meta", "", True, True),
    ],
)
def test_the_layout_is_the_faster_one(
    name: str, kernels: str, training: bool, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: kernels)
    network = torch.nn.Conv2d(8, 16, 3)
    device.move_to_device_(network, torch.device(name), None, training)
    assert network.weight.is_contiguous(memory_format=torch.channels_last) == channels_last


def test_slow_bfloat16_is_reported(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_training(tmp_path, max_iter=1)
    name, *_ = argv(tmp_path)
    for precision, slow, reported in (
        ("bfloat16", True, True),
        ("bfloat16", False, False),
        ("float32", True, False),
    ):
        config = load_config(name, overrides=[f"system.precision={precision}"])
        run = prepare(config, torch.device("cpu"))
        monkeypatch.setattr(train, "slow_in_bfloat16", lambda _, slow=slow: slow)
        assert any("system.precision=float32" in line for line in train.describe(run)) == reported


def test_one_gpu_is_not_for_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"cuda:1 is one GPU.*--device cuda gives each its own"):
        device.choose_device("cuda:1", local_rank=0)
    assert device.choose_device("cpu", local_rank=1) == torch.device("cpu")
    with pytest.raises(UserError, match="device nonsense cannot be used here"):
        device.choose_device("nonsense", local_rank=1)


@pytest.mark.parametrize("command", [train, evaluate])
def test_the_gpu_that_was_named_is_the_current_one(command, tmp_path, monkeypatch) -> None:
    """It stays so while the network is built: memory is taken there and nowhere else."""
    write_training(tmp_path)
    made_current: list[torch.device] = []
    monkeypatch.setattr(command, "choose_device", lambda *given: torch.device("cuda:1"))
    monkeypatch.setattr(torch.cuda, "set_device", made_current.append)
    with pytest.raises((UserError, AssertionError, RuntimeError)):  # there is none here
        command.main([argv(tmp_path)[0], "--device", "cuda:1"])
    assert made_current == [torch.device("cuda:1")]
