"""Targets of centres: the golden ones, and what must hold for any boxes."""

import numpy as np
import pytest
import torch

from core.targets.centers import center_targets
from tests.support.centers_golden import DATA, WALKTHROUGH, sparse_heatmap
from tests.targets.test_corners import make_batch, random_boxes

OPTIONS = {
    "num_classes": 5,
    "output_size": (16, 24),
    "gaussian_bump": True,
    "gaussian_iou": 0.3,
    "gaussian_radius": -1,
}


def targets_of(objects, height=64, width=96, **changes):
    return center_targets(make_batch(objects, height, width), **OPTIONS | changes)


def golden_boxes():
    """The golden images' boxes, with labels instead of categories."""
    return [DATA[f"tgt_boxes_{number}"] - np.array([0, 0, 0, 0, 1]) for number in range(4)]


def test_golden():
    targets = targets_of(golden_boxes(), 512, 512, num_classes=80, output_size=(128, 128))
    expected = sparse_heatmap("tgt_ceil_hm", (4, 80, 128, 128))
    torch.testing.assert_close(targets.heatmap, expected, rtol=0, atol=1e-6)
    slots = targets.mask.shape[1]
    assert DATA["tgt_mask"][:, slots:].sum() == 0
    np.testing.assert_array_equal(targets.mask, DATA["tgt_mask"][:, :slots].astype(bool))
    np.testing.assert_array_equal(targets.index, DATA["tgt_ind"][:, :slots])
    np.testing.assert_allclose(targets.size, DATA["tgt_wh"][:, :slots], rtol=0, atol=2e-5)
    np.testing.assert_allclose(targets.offset, DATA["tgt_reg"][:, :slots], rtol=0, atol=2e-5)


def test_walkthrough():
    """Cell, offset and kernel of the worked example, in its 8 x 8 cells of 8 pixels."""
    targets = targets_of(
        [[[12, 12, 44, 44, 0]]], 64, 64, output_size=(8, 8), gaussian_radius=2, num_classes=1
    )
    x, y = WALKTHROUGH["centre_xy"]["value"]
    assert targets.index[0, 0] == y * 8 + x and targets.mask.tolist() == [[True, False]]
    assert targets.offset[0, 0].tolist() == WALKTHROUGH["offset"]["offset"]["value"]
    kernel = torch.tensor(WALKTHROUGH["gaussian2D_radius2_sigma_5_6"]["value"])
    torch.testing.assert_close(targets.heatmap[0, 0, 1:6, 1:6], kernel, rtol=0, atol=1e-6)
    assert targets.heatmap.count_nonzero() == 25


def test_index_size_and_offset_give_the_boxes_back():
    boxes = random_boxes(12)
    targets = targets_of([boxes])
    cells = torch.stack((targets.index[0] % 24, targets.index[0] // 24), 1)
    center = (cells + targets.offset[0]) * 4
    half = targets.size[0] * 4 / 2
    back = torch.cat((center - half, center + half), 1).numpy()
    np.testing.assert_allclose(back, np.clip(boxes[:, :4], 0, [92, 60, 92, 60]), atol=1e-4)
    assert ((targets.offset >= 0) & (targets.offset < 1)).all()


def test_a_centre_is_one_and_in_its_class():
    boxes = random_boxes(6, seed=3)
    targets = targets_of([boxes])
    for row, index in enumerate(targets.index[0]):
        assert targets.heatmap[0, int(boxes[row, 4])].flatten()[index] == 1
    assert targets.heatmap.max() == 1 and targets.heatmap.min() == 0


def test_a_batch_gives_what_its_images_give():
    objects = [random_boxes(5, 1), random_boxes(0), random_boxes(1, 2)]
    together = targets_of(objects)
    for row, boxes in enumerate(objects):
        alone = targets_of([boxes])
        assert torch.equal(together.heatmap[row], alone.heatmap[0])
        count = len(boxes)
        assert together.mask[row].tolist() == [True] * count + [False] * (5 - count)
        for name in ("index", "size", "offset"):
            value = getattr(together, name)[row]
            assert torch.equal(value[:count], getattr(alone, name)[0, :count])
            assert not value[count:].any()


def test_boxes_outside_are_masked_and_leave_no_trace():
    outside = [[-20, -20, -1, -1, 0], [97, 3, 120, 20, 1], [5, 61, 30, 63.5, 2], [9, 9, 9, 20, 3]]
    inside = [-10, 30, 20, 90, 4]
    targets = targets_of([[*outside, inside]])
    assert targets.mask.tolist() == [[False] * 4 + [True]]
    assert not targets.heatmap[:, :4].any()
    assert targets.size[0, 4].tolist() == [5.0, 7.5]  # clipped at 0 and at the last row, 15
    for name in ("index", "size", "offset"):
        assert not getattr(targets, name)[0, :4].any()


@pytest.mark.parametrize(
    ("changes", "cells"),
    [({"gaussian_bump": False}, 1), ({"gaussian_radius": 1}, 9), ({"gaussian_radius": 0}, 1)],
)
def test_other_peaks(changes, cells):
    targets = targets_of([[[20, 20, 60, 50, 2]]], **changes)
    assert targets.heatmap.count_nonzero() == cells


def test_inputs_are_left_as_they_are():
    batch = make_batch([random_boxes(4), [[-5, -5, 200, 200, 0]]])
    kept = batch.boxes.clone()
    center_targets(batch, **OPTIONS)
    assert torch.equal(batch.boxes, kept)
