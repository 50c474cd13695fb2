"""Failures that no run goes on from: values that are not finite, no memory."""

import json

import pytest
import torch

import train
from core.training import command
from core.training.failures import NonFiniteLoss, non_finite_loss
from tests.support.engine_stand_in import StandInImages
from tests.support.tiny_training import argv, write_training
from tests.training.test_loop_faults import Attempt


class Steep(torch.autograd.Function):
    """A finite value whose gradient is infinite."""

    @staticmethod
    def forward(context, value):
        return value.detach().clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * float("inf")


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_gradient_that_is_not_finite_is_not_saved(tmp_path, clip_norm):
    """Adam would have made every weight NaN by it, and the snapshot is due in the same step."""
    attempt = Attempt(tmp_path, snapshot=3, clip_norm=clip_norm)
    weight = next(attempt.detector.network.parameters())

    def spoil(step):
        if step == 3:
            return {"map": Steep.apply(weight.square().sum())}

    attempt.during = spoil
    with pytest.raises(NonFiniteLoss, match=r"step 3 is not finite: map \d.*, gradient norm inf"):
        attempt.run()
    assert attempt.saved == []
    content = json.loads((tmp_path / "non_finite_3.json").read_text())
    assert content["gradient_norm"] in ("inf", "nan")


def test_a_full_disk_does_not_hide_what_ended_the_run(tmp_path):
    folder = tmp_path / "not" / "there"
    error = non_finite_loss(7, {"map": 1.5}, float("inf"), [3], StandInImages(), folder)
    assert str(error) == (
        "step 7 is not finite: map 1.5, gradient norm inf; its images: images/0003.jpg"
    )


@pytest.mark.parametrize(
    ("settings", "hints"),
    [
        ({}, "smaller system.chunk_sizes, system.precision=bfloat16, system.checkpointing=stack"),
        (
            {"precision": "bfloat16", "checkpointing": "stack"},
            "smaller system.chunk_sizes; `cornerkit plan",
        ),
    ],
)
def test_a_full_gpu_is_one_line_with_hints(tmp_path, settings, hints, monkeypatch, caplog):
    write_training(tmp_path)

    def full(*given, **more):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB. GPU 0 has …")

    monkeypatch.setattr(command, "train", full)
    more = [word for item in settings.items() for word in ("--set", "system.{}={}".format(*item))]
    with pytest.raises(SystemExit) as caught:
        train.main(argv(tmp_path, *more))
    assert caught.value.code == 1
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "memory is full (CUDA out of memory)" in line and hints in line
