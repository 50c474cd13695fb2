"""Radius of the peaks, and their drawing."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from core.targets.gaussian import (
    Drawn,
    Peak,
    draw_gaussians,
    gaussian_radius,
    largest_radius,
    peak_radius,
)
from tests.support.other_device import OTHER, OtherDevice

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "gaussian.npz")
BUMPS = json.loads(str(GOLDEN["bumps"]))


def draw(bumps, height=24, width=31, labels=None, drawn=None) -> torch.Tensor:
    """Draws on the 3 heatmaps of an image; all on the first, or on those of ``labels``."""
    x, y, radius = (torch.tensor([bump[i] for bump in bumps], dtype=torch.int64) for i in range(3))
    label = torch.zeros_like(x) if labels is None else torch.tensor(labels)
    mask = torch.ones_like(x, dtype=torch.bool) if drawn is None else torch.tensor(drawn)
    objects = Drawn(torch.zeros_like(x), label, x, y, radius, mask)
    return draw_gaussians((1, 3, height, width), objects, 12)[0]


def test_radius_equals_the_reference():
    for iou in np.unique(GOLDEN["radius_iou"]):
        rows = GOLDEN["radius_iou"] == iou
        heights, widths = torch.from_numpy(GOLDEN["radius_hw"][rows]).double().unbind(1)
        radius = gaussian_radius(heights, widths, float(iou))
        np.testing.assert_allclose(radius, GOLDEN["radius"][rows], rtol=1e-9)
        assert radius.long().clamp(min=0).tolist() == GOLDEN["radius_int"][rows].tolist()


@pytest.mark.parametrize("radius", [0, 1, 2, 5])
def test_kernel_equals_the_reference(radius):
    side = 2 * radius + 1
    drawn = draw([[radius, radius, radius]], side, side)[0]
    np.testing.assert_allclose(drawn, GOLDEN[f"gauss2d_r{radius}"], atol=1e-6)
    assert drawn[radius, radius] == 1


@pytest.mark.parametrize("case", range(len(BUMPS)))
def test_maps_equal_the_reference(case):
    expected = GOLDEN["maps"][case]
    heights = {height for *_, height in BUMPS[case]}
    # All peaks of a detector have height 1; those of another height are scaled here.
    maps = [height * draw([b for b in BUMPS[case] if b[3] == height])[0] for height in heights]
    drawn = torch.stack(maps).amax(0).numpy()
    np.testing.assert_allclose(drawn, expected, atol=1e-6)
    np.testing.assert_array_equal(drawn > 0, expected > 0)


def test_heatmaps_do_not_mix_and_padding_draws_nothing():
    bumps = [[3, 4, 2, 1], [30, 23, 9, 1], [3, 4, 2, 1]]
    drawn = draw(bumps, labels=[2, 0, 1], drawn=[True, True, False])
    assert torch.equal(drawn[2], draw(bumps[:1])[0])
    assert torch.equal(drawn[0], draw(bumps[1:2])[0])
    assert drawn[1].sum() == 0


def test_order_does_not_matter():
    rng = np.random.default_rng(0)
    bumps = [
        [int(rng.integers(31)), int(rng.integers(24)), int(rng.integers(12))] for _ in range(60)
    ]
    assert torch.equal(draw(bumps), draw(bumps[::-1]))


def test_no_object_at_all():
    assert draw([]).sum() == 0


@pytest.mark.parametrize("at_once", [1, 4000, 2**22])
def test_another_device_draws_the_same_without_a_wait(at_once, monkeypatch):
    """There, what is drawn is in channels_last."""
    monkeypatch.setattr("core.targets.gaussian._CELLS_AT_ONCE", at_once)
    rng = np.random.default_rng(1)
    places = [torch.tensor(rng.integers(0, most, (2, 30))) for most in (5, 31, 24, 13)]
    objects = torch.arange(2)[:, None], *places, torch.tensor(rng.random((2, 30)) < 0.8)
    size = (2, 5, 24, 31)
    here = draw_gaussians(size, Drawn(*objects), 12)
    with OtherDevice() as other:
        there = draw_gaussians(size, Drawn(*(each.to(OTHER) for each in objects)), 12)
        assert not other.waits
        assert torch.equal(there.cpu(), here)
    assert here.is_contiguous() and there.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("iou", [0.1, 0.3, 0.7, 1.0])
def test_no_radius_is_larger_than_the_largest(iou):
    sizes = torch.rand(2, 500, dtype=torch.float64) * torch.tensor([[128.0], [60.0]]) + 1e-9
    sizes = torch.cat([sizes, torch.tensor([[128.0], [60.0]]) * (1 + 1e-12)], 1)
    for peak in (Peak(True, iou, -1), Peak(True, iou, 7), Peak(False, iou, -1)):
        assert peak_radius(*sizes, peak).max() <= largest_radius((128, 60), peak)
    assert largest_radius((128, 60), Peak(True, 0.3, -1)) < 25
