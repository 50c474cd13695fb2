"""Targets of CornerNet-Saccade: usable boxes, blanked cells, attention."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from core.data.color import NORMALIZE
from core.structures import Sample, collate
from core.targets.corners import corner_targets
from core.targets.saccade import attention_targets, saccade_targets
from tests.support.saccade_golden import RANGES, RUNS, SIZES, STRIDES, TARGETS

CORNERS = {
    "num_classes": 80,
    "output_size": (64, 64),
    "gaussian_bump": True,
    "gaussian_iou": 0.5,
    "gaussian_radius": -1,
}
RENDER = partial(corner_targets, **CORNERS)
ATTENTION = {"sizes": SIZES, "strides": STRIDES, "ranges": RANGES}


def make_batch(objects, usable=None, side=255):
    """A batch of black images with the boxes (x0, y0, x1, y1, label) of each image."""
    image = np.zeros((3, side, side), np.uint8)
    rows = [np.array(boxes, np.float32).reshape(-1, 5) for boxes in objects]
    usable = [np.ones(len(r), bool) for r in rows] if usable is None else usable
    samples = [
        Sample(image, r[:, :4], r[:, 4].astype(np.int64), NORMALIZE, np.array(u, bool))
        for r, u in zip(rows, usable, strict=True)
    ]
    return collate(samples, list(range(len(samples))))


def golden_batch(run):
    objects, usable = [], []
    for row in range(5):
        boxes = TARGETS[f"run{run}_final_{row}"].copy()
        boxes[:, 4] -= 1
        sides = boxes[:, 2:4].astype(int) - boxes[:, :2].astype(int)
        objects.append(boxes)
        ratio = TARGETS[f"run{run}_ratio_{row}"]
        usable.append((ratio > 0.5) & (sides.max(1, initial=0) >= 16))
    return make_batch(objects, usable)


@pytest.mark.parametrize("run", range(len(RUNS)))
def test_equals_the_reference(run):
    batch = golden_batch(run)
    targets = saccade_targets(batch, **ATTENTION, render=RENDER)
    corners = targets.corners
    assert batch.usable.any() and not batch.usable.all()
    for corner in ("tl", "br"):
        heatmap = getattr(corners, f"{corner}_heatmap").flatten()
        index = TARGETS[f"run{run}_{corner}_heat_idx"]
        np.testing.assert_array_equal(heatmap.nonzero()[:, 0], index)
        values = TARGETS[f"run{run}_{corner}_heat_val"]
        np.testing.assert_allclose(heatmap[index], values, atol=1e-6)
        valid = getattr(targets, f"{corner}_valid").flatten()
        zeros = TARGETS[f"run{run}_{corner}_valid_zero_idx"]
        np.testing.assert_array_equal((~valid).nonzero()[:, 0], zeros)
        for row in range(5):  # the reference packs the used boxes to the front
            used = corners.mask[row]
            count = int(used.sum())
            assert TARGETS[f"run{run}_tag_mask"][row].sum() == count
            offset = TARGETS[f"run{run}_{corner}_regr"][row, :count]
            np.testing.assert_allclose(
                getattr(corners, f"{corner}_offset")[row, used], offset, atol=2e-5
            )
            tags = TARGETS[f"run{run}_{corner}_tag"][row, :count]
            np.testing.assert_array_equal(getattr(corners, f"{corner}_index")[row, used], tags)
    for level, attention in enumerate(targets.attention):
        np.testing.assert_array_equal(attention, TARGETS[f"run{run}_att_{level}"])


def test_attention_of_the_reference():
    cfg = json.loads(str(TARGETS["att_cfg"]))
    batch = make_batch([TARGETS["att_boxes"]])
    maps = attention_targets(batch, sizes=cfg["sizes"], strides=cfg["ratios"], ranges=cfg["ranges"])
    for level, attention in enumerate(maps):
        np.testing.assert_array_equal(attention[0, 0], TARGETS[f"att_{level}"])


def test_limits_of_a_range_belong_to_both_levels():
    batch = make_batch([[[0, 0, 96, 10, 0], [100, 100, 132, 105, 0], [200, 50, 202, 53, 0]]])
    large, medium, small = attention_targets(batch, **ATTENTION)
    assert large.nonzero().tolist() == [[0, 0, 0, 3]]
    assert medium.nonzero().tolist() == [[0, 0, 0, 6], [0, 0, 12, 14]]
    assert small.nonzero().tolist() == [[0, 0, 12, 50], [0, 0, 25, 29]]


@pytest.mark.parametrize("usable", [True, False])
def test_attention_is_of_all_boxes(usable):
    boxes = [[[10, 10, 50, 50, 3], [100, 90, 120, 99, 3]], []]
    batch = make_batch(boxes, [[usable] * 2, []])
    maps = saccade_targets(batch, **ATTENTION, render=RENDER).attention
    assert [int(level.sum()) for level in maps] == [0, 1, 1]
    assert all(not level[1].any() for level in maps)


def test_padding_marks_nothing():
    """Padding is boxes of zeros: the smallest objects of all, in the corner."""
    batch = make_batch([[], [[10, 10, 50, 50, 3], [100, 90, 120, 99, 3]]])
    targets = saccade_targets(batch, **ATTENTION, render=RENDER)
    assert all(not level[0].any() for level in targets.attention)
    assert targets.tl_valid[0].all() and not targets.corners.mask[0].any()


def test_boxes_that_are_not_usable_blank_their_corners_and_give_no_object():
    boxes = [[10, 10, 50, 50, 3], [100, 90, 150, 130, 7]]
    targets = saccade_targets(make_batch([boxes], [[True, False]]), **ATTENTION, render=RENDER)
    alone = corner_targets(make_batch([boxes[:1]]), **CORNERS)
    other = corner_targets(make_batch([boxes[1:]]), **CORNERS)
    assert torch.equal(targets.corners.tl_heatmap, alone.tl_heatmap)
    assert torch.equal(targets.br_valid, other.br_heatmap == 0)
    assert targets.corners.mask.tolist() == [[True, False]]
    assert not targets.tl_valid[0, 7].all() and targets.tl_valid[0, 3].all()


def test_other_sizes_of_images():
    batch = make_batch([[[100, 3, 126, 126, 0]]], side=127)
    sizes, strides = ((8, 8), (16, 16), (32, 32)), (16, 8, 4)
    maps = attention_targets(batch, sizes=sizes, strides=strides, ranges=RANGES)
    assert maps[0].nonzero().tolist() == [[0, 0, 4, 7]]


def test_the_batch_is_left_as_it_is():
    batch = golden_batch(0)
    kept = replace(batch, usable=batch.usable.clone(), boxes=batch.boxes.clone())
    saccade_targets(batch, **ATTENTION, render=RENDER)
    assert torch.equal(batch.usable, kept.usable) and torch.equal(batch.boxes, kept.boxes)
