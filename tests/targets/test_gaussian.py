"""Radius of the peaks, and their drawing."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from core.targets.gaussian import (
    Drawn,
    Peak,
    gaussian_radius,
    largest_radius,
    peak_radius,
    splat_gaussians_,
)
from tests.support.other_device import OTHER, OtherDevice

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "gaussian.npz")
BUMPS = json.loads(str(GOLDEN["bumps"]))


def splat(bumps, height=24, width=31, planes=1, plane=None, drawn=None) -> torch.Tensor:
    heatmaps = torch.zeros(planes, height, width)
    x, y, radius = (torch.tensor([bump[i] for bump in bumps], dtype=torch.int64) for i in range(3))
    plane = torch.zeros_like(x) if plane is None else torch.tensor(plane)
    drawn = torch.ones_like(x, dtype=torch.bool) if drawn is None else torch.tensor(drawn)
    splat_gaussians_(heatmaps, Drawn(plane, x, y, radius, drawn), 12)
    return heatmaps


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
    drawn = splat([[radius, radius, radius]], side, side)[0]
    np.testing.assert_allclose(drawn, GOLDEN[f"gauss2d_r{radius}"], atol=1e-6)
    assert drawn[radius, radius] == 1


@pytest.mark.parametrize("case", range(len(BUMPS)))
def test_maps_equal_the_reference(case):
    expected = GOLDEN["maps"][case]
    heights = {height for *_, height in BUMPS[case]}
    # All peaks of a detector have height 1; those of another height are scaled here.
    maps = [height * splat([b for b in BUMPS[case] if b[3] == height])[0] for height in heights]
    drawn = torch.stack(maps).amax(0).numpy()
    np.testing.assert_allclose(drawn, expected, atol=1e-6)
    np.testing.assert_array_equal(drawn > 0, expected > 0)


def test_planes_do_not_mix_and_padding_draws_nothing():
    bumps = [[3, 4, 2, 1], [30, 23, 9, 1], [3, 4, 2, 1]]
    drawn = splat(bumps, planes=3, plane=[2, 0, 1], drawn=[True, True, False])
    assert torch.equal(drawn[2], splat(bumps[:1])[0])
    assert torch.equal(drawn[0], splat(bumps[1:2])[0])
    assert drawn[1].sum() == 0


def test_order_does_not_matter():
    rng = np.random.default_rng(0)
    bumps = [
        [int(rng.integers(31)), int(rng.integers(24)), int(rng.integers(12))] for _ in range(60)
    ]
    assert torch.equal(splat(bumps), splat(bumps[::-1]))


def test_higher_values_that_stand_stay():
    heatmaps = torch.full((1, 5, 5), 0.5)
    one = torch.tensor([2])
    splat_gaussians_(heatmaps, Drawn(one - 2, one, one, one, one > 0), 1)
    assert heatmaps.min() == 0.5 and heatmaps[0, 2, 2] == 1


def test_no_object_at_all():
    assert splat([]).sum() == 0


@pytest.mark.parametrize("at_once", [1, 4000, 2**22])
def test_another_device_draws_the_same_without_a_wait(at_once, monkeypatch):
    monkeypatch.setattr("core.targets.gaussian._CELLS_AT_ONCE", at_once)
    rng = np.random.default_rng(1)
    n = 30
    places = [torch.tensor(rng.integers(0, most, n)) for most in (3, 31, 24, 13)]
    drawn = torch.tensor(rng.random(n) < 0.8)
    here, there = torch.full((2, 3, 24, 31), 0.1)
    splat_gaussians_(here, Drawn(*places, drawn), 12)
    with OtherDevice() as other:
        given = [each.to(OTHER) for each in (there, *places, drawn)]
        splat_gaussians_(given[0], Drawn(*given[1:]), 12)
        assert not other.waits
        assert torch.equal(given[0].cpu(), here)


@pytest.mark.parametrize("iou", [0.1, 0.3, 0.7, 1.0])
def test_no_radius_is_larger_than_the_largest(iou):
    sizes = torch.rand(2, 500, dtype=torch.float64) * torch.tensor([[128.0], [60.0]]) + 1e-9
    sizes = torch.cat([sizes, torch.tensor([[128.0], [60.0]]) * (1 + 1e-12)], 1)
    for peak in (Peak(True, iou, -1), Peak(True, iou, 7), Peak(False, iou, -1)):
        assert peak_radius(*sizes, peak).max() <= largest_radius((128, 60), peak)
    assert largest_radius((128, 60), Peak(True, 0.3, -1)) < 25
