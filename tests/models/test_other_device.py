"""Training and detecting on another device than the CPU, where a step never waits for it.

The device has no float64, as Apple's; what a step waits for because of that is not counted.
"""

import contextlib
import re
from functools import partial

import numpy as np
import pytest
import torch
from torchvision.ops import generalized_box_iou_loss

from core.config.loading import System
from core.losses.centripetal import generalized_iou_loss
from core.models.device import move_to_device_
from core.tools.plan import noise_batch
from core.torch_compat import in_float64
from core.training.optimizer import build_optimizer
from core.training.step import train_step, validate
from tests.support.engine_stand_in import state
from tests.support.inference import detect
from tests.support.model_builders import SMALL, detector_that_finds
from tests.support.other_device import OTHER, OtherDevice

CPU = torch.device("cpu")
# Each backbone, kind of detector and pairing once or twice, not all of each with all others.
REDUNDANT = {"CornerNet", "CornerNet-centripetal", "CornerNet-lite", "CenterNet-lite"}
REDUNDANT |= {"FasterRCNN", "FasterRCNN-resnet18", "CornerNet-resnet18", "CornerNet_Saccade"}


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch):
    """The meta device has none."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())


def detect_and_train(name, device):
    """Detections, numbers of two steps and a validation, weights, and waits for the device."""
    detector = detector_that_finds(name)
    batch = noise_batch(detector.sample, 4, 3)
    system = System(batch_size=4, chunk_sizes=[4], channels_last=False)
    image = np.random.default_rng(0).integers(0, 256, (140, 190, 3), np.uint8)
    with OtherDevice(float64=False) as other:
        move_to_device_(detector.network.eval(), device, False, training=True)
        with torch.no_grad():
            found = detect(detector, image, detector.predict(device))
        other.waits.clear()
        optimizer = build_optimizer(detector.network.parameters(), "sgd", 0.01)
        run = state(system, detector, optimizer, device=device)
        steps = [train_step(run, batch) for _ in range(2)]
        waits = [wait for wait in other.waits if not re.search("torch_compat", " ".join(wait[1]))]
        numbers = [[x.item() for x in (*terms.values(), norm)] for terms, norm in steps]
        numbers.append(list(validate(run, batch).values()))
        weights = {k: v.cpu() for k, v in detector.network.state_dict().items()}
    return found, numbers, weights, waits


@pytest.mark.parametrize("name", sorted(SMALL.keys() - REDUNDANT))
def test_another_device_gives_the_same(name):
    found, numbers, weights, none = detect_and_train(name, CPU)
    other_found, other_numbers, other_weights, waits = detect_and_train(name, OTHER)
    assert not none
    close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)  # optimisers round as they do
    close(other_numbers, numbers)
    close(other_weights, weights)
    assert len(found)
    for kind in ("boxes", "scores", "labels"):
        one, other = getattr(found, kind), getattr(other_found, kind)
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-3)
    if not name.startswith("FasterRCNN"):  # torchvision itself waits often
        assert not waits


# Torchvision's Faster R-CNN samples regions and suppresses them on the host.
@pytest.mark.parametrize("name", sorted(n for n in SMALL if not n.startswith("FasterRCNN")))
def test_a_step_on_a_gpu_neither_waits_nor_uploads(name):
    """So a CUDA graph can record it."""
    detector = detector_that_finds(name)
    system = System(batch_size=4, chunk_sizes=[3, 1], channels_last=False, clip_norm=1.0)
    with OtherDevice() as other:
        move_to_device_(detector.network.train(), OTHER, False, training=True)
        optimizer = build_optimizer(detector.network.parameters(), "sgd", 0.01)
        run = state(system, detector, optimizer, device=OTHER)
        batch = noise_batch(detector.sample, 4, 3).to(OTHER)
        train_step(run, batch)
        other.waits.clear(), other.uploads.clear()
        train_step(run, batch)
    assert not other.waits and not other.uploads


def test_the_stand_in_does_not_mix_devices():
    with OtherDevice() as other:
        there = torch.ones(3).to(OTHER)
        assert (there * 2 + torch.tensor(1)).sum().item() == 9
        with pytest.raises(RuntimeError, match=r"mul.* mixes devices"):
            there * torch.ones(3)
        with pytest.raises(RuntimeError):
            there.numpy()
        assert there.cpu().numpy().tolist() == torch.tensor([1.0, 1, 1], device=OTHER).tolist()
    assert len(other.waits) == 3


def waits_in(function):
    """Number of waits in a function of six numbers on the other device, and where they are > 3."""
    with OtherDevice() as other:
        numbers = torch.arange(6.0).to(OTHER)
        mask = numbers > 3
        function(numbers, mask)
    return len(other.waits)


def fill(numbers, mask, value):
    numbers[mask] = value


@pytest.mark.parametrize(
    ("function", "waits"),
    [
        (lambda numbers, mask: numbers[mask], 1),
        (lambda numbers, mask: numbers.requires_grad_()[mask].sum().backward(), 2),
        (lambda numbers, mask: fill(numbers, mask, numbers[1:3].clone()), 1),
        (lambda numbers, mask: fill(numbers, mask, numbers[1]), 1),
        (lambda numbers, mask: fill(numbers, mask, 7), 0),
        (lambda numbers, mask: fill(numbers.view(2, 3), mask.view(2, 3), 7), 0),
        (lambda numbers, mask: fill(numbers.view(2, 3), (mask[:2], mask[:3]), 7), 1),
        (lambda numbers, mask: numbers[numbers.long()], 0),
        (lambda numbers, mask: numbers.masked_fill(mask, 0).where(mask, 1), 0),
        (lambda numbers, mask: torch.repeat_interleave(mask.long()), 1),
        (lambda numbers, mask: torch.repeat_interleave(mask.long(), output_size=2), 0),
        (lambda numbers, mask: numbers.requires_grad_().prod(0).backward(), 1),
    ],
)
def test_the_stand_in_counts_what_a_gpu_waits_for(function, waits):
    """A mask as an index is a wait for its sum, unless a number of Python is written there."""
    assert waits_in(function) == waits


def test_torchvisions_overlap_waits_and_ours_does_not():
    def step(loss, numbers):
        loss(numbers[None, :4].requires_grad_(), numbers[None, 1:5] + 1).sum().backward()

    assert waits_in(lambda numbers, _: step(generalized_box_iou_loss, numbers)) > 1
    assert waits_in(lambda numbers, _: step(generalized_iou_loss, numbers)) == 0


def test_the_stand_in_may_have_no_float64():
    with OtherDevice(float64=False):
        there = torch.ones(3).to(OTHER)
        for make in (there.double, lambda: torch.zeros(3, dtype=torch.float64, device=OTHER)):
            with pytest.raises(TypeError, match="no float64"):
                make()
        assert in_float64(there).device == CPU
    with OtherDevice():
        assert in_float64(torch.ones(3).to(OTHER)).device == OTHER
