"""Locations: from attention, from detections, and the choice among them."""

import json

import numpy as np
import pytest
import torch

from core.inference.crops import plan_crops
from core.inference.locations import (
    attention_locations,
    attention_peaks,
    detection_locations,
    suppress_locations,
)
from tests.support.saccade_golden import INFERENCE, RANGES, STRIDES

META = json.loads(str(INFERENCE["da_meta"]))


def views(scales, offsets):
    """Crops with these scales and offsets, of which nothing else is read."""
    crops = plan_crops(np.ones((len(scales), 3)), (9, 9), (255, 255))
    values = {**vars(crops), "scales": np.array(scales, np.float64), "offsets": np.array(offsets)}
    return type(crops)(**values)


def attention(*cells, size=16, count=1):
    """One map [count, 1, size, size] with these (view, row, column, value)."""
    map_ = np.zeros((count, 1, size, size), np.float32)
    for view, row, column, value in cells:
        map_[view, 0, row, column] = value
    return map_


@pytest.mark.parametrize("case", range(len(META)))
def test_attention_of_the_reference(case):
    meta = META[case]
    found = attention_locations(
        [INFERENCE[f"da{case}_att_{level}"] for level in range(3)],
        views(INFERENCE[f"da{case}_scales"], INFERENCE[f"da{case}_offsets"]),
        (meta["height"], meta["width"]),
        strides=STRIDES,
        zooms=meta["att_scales"],
        threshold=meta["thresh"],
        closer_only=meta["ignore_same"],
    )
    np.testing.assert_allclose(found, INFERENCE[f"da{case}_out"], atol=1e-4)
    assert found.dtype == np.float64


def test_local_maxima_of_the_reference():
    maps = [torch.from_numpy(INFERENCE[f"da0_att_{level}"]) for level in range(3)]
    kept = [map_.clone() for map_ in maps]
    for level, peaks in enumerate(attention_peaks(maps, (3, 3, 3))):
        np.testing.assert_array_equal(peaks, INFERENCE[f"attnms_{level}"])
    assert all(torch.equal(map_, copy) for map_, copy in zip(maps, kept, strict=True))


def test_detections_of_the_reference():
    found = detection_locations(INFERENCE["ref_dets"], RANGES, 255)
    np.testing.assert_allclose(found, INFERENCE["ref_locs"], atol=1e-4)


@pytest.mark.parametrize("case", range(7))
def test_suppression_of_the_reference(case):
    given, distance = INFERENCE[f"lnms{case}_in"], int(INFERENCE[f"lnms{case}_thresh"])
    kept = given.copy()
    expected = INFERENCE[f"lnms{case}_out"]
    np.testing.assert_array_equal(suppress_locations(given, distance), expected)
    for limit in (0, 1, 5):
        few = suppress_locations(given, distance, limit)
        np.testing.assert_array_equal(few, expected[:limit])
    np.testing.assert_array_equal(given, kept)


def test_a_cell_is_a_point_of_the_image():
    maps = [attention((1, 2, 3, 0.9), count=2)]
    crops = views([0.5, 2.0], [[0, 0], [-10, 40]])
    settings = {"strides": (16,), "zooms": (2,), "threshold": 0.3, "closer_only": False}
    found = attention_locations(maps, crops, (480, 640), **settings)
    np.testing.assert_allclose(found, [[2 * 16 / 2 - 10, 3 * 16 / 2 + 40, 4, 0.9]], atol=1e-6)


@pytest.mark.parametrize("size", [(1, 4000), (5, 4000), (4000, 5)])
def test_an_image_thinner_than_a_cell_has_locations(size):
    """As if it were as wide as the cells that it lies in."""
    crops = plan_crops(np.array([[size[0] // 2, size[1] // 2, 255 / 4000]]), size, (255, 255))
    everywhere = [np.ones((1, 1, cells, cells), np.float32) for cells in (16, 32, 64)]
    settings = {"strides": (16, 8, 4), "zooms": (1, 2, 4), "threshold": 0.3, "closer_only": False}
    found = attention_locations(everywhere, crops, size, **settings)
    assert ((found[:, :2] >= 0) & (found[:, :2] < size)).all()
    along = int(np.argmax(size))
    for cells, zoom in ((16, 1), (32, 2), (64, 4)):
        points = found[np.isclose(found[:, 2], zoom * 255 / 4000), along]
        assert cells - 2 <= len(np.unique(points)) <= cells


def test_limits():
    settings = {"strides": (16, 8), "zooms": (1, 2), "threshold": 0.3, "closer_only": False}

    def count(scale, cell=(0, 2, 2, 0.9), **other):
        maps = [attention(cell), attention(cell, size=32)]
        crops = views([scale], [[0, 0]])
        return len(attention_locations(maps, crops, (100, 100), **{**settings, **other}))

    assert count(1) == 2
    assert count(2) == 2
    assert count(2.1) == 0  # large enough
    assert count(2, zooms=(1, 2.1)) == 1  # too large
    assert count(1, closer_only=True) == 1
    assert count(1, threshold=0.9) == 0  # exceeds, not reaches
    assert count(1, cell=(0, 7, 7, 0.9)) == 1  # 112 pixels are outside
    assert count(1, cell=(0, 0, 0, 0.9)) == 2


def test_views_of_other_sizes_get_other_targets():
    boxes = np.array([[0, 0, 100, 10, 0.9], [0, 0, 10, 20, 0.9], [0, 0, 4, 4, 0.9]], np.float32)
    found = detection_locations(boxes, ((48, 128), (16, 48), (0, 16)), 127)
    np.testing.assert_allclose(found[:, 2] * [100, 20, 4], [127 * 192 / 255, 32, 12])


def test_unclear_and_empty_detections_are_no_locations():
    boxes = np.array([[0, 0, 9, 9, 0.5], [5, 5, 5, 5, 0.9], [9, 9, 3, 3, 0.9]], np.float32)
    assert detection_locations(boxes, RANGES, 255).shape == (0, 4)
    assert detection_locations(np.zeros((0, 8), np.float32), RANGES, 255).shape == (0, 4)


def test_near_locations_of_similar_scale_are_one():
    best, far, near, other = [50, 50, 2, 0.9], [70, 70, 2, 0.8], [51, 90, 2, 0.7], [50, 50, 3, 0.6]
    given = np.array([far, near, best, other], np.float64)
    np.testing.assert_array_equal(suppress_locations(given, 16), [best, far, other])


def test_very_many_locations():
    rng = np.random.default_rng(0)
    given = np.column_stack(
        (rng.uniform(0, 500, (20000, 2)), rng.choice([0.4, 0.8], 20000), rng.random(20000))
    )
    found = suppress_locations(given, 16, 30)
    assert 0 < len(found) <= 30 and (np.diff(found[:, 3]) < 0).all()
