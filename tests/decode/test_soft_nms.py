"""Suppression of an image's detections, and the cut to the best ones."""

import numpy as np
import pytest
import torch

from core.decode.soft_nms import keep_best, suppress
from cpools_ext.soft_nms import METHODS, soft_nms


def random_boxes(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corners = rng.random((count, 2)) * 30
    sizes = 2 + rng.random((count, 2)) * 20
    return np.hstack([corners, corners + sizes, rng.random((count, 3))]).astype(np.float32)


def of_one_class(boxes: np.ndarray, **settings) -> tuple[np.ndarray, int]:
    """All rows that soft-NMS leaves, and how many of them are kept."""
    labels = torch.zeros(len(boxes), dtype=torch.int64)
    rows, _, kept = soft_nms(torch.from_numpy(boxes), labels, **settings)
    return rows.numpy(), int(kept.sum())


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_each_class_by_itself(merge, method):
    boxes, settings = random_boxes(60, 3), {"method": method, "nms_threshold": 0.4}
    labels = np.random.default_rng(0).choice([0, 2, 7], 60)
    boxes.flags.writeable = labels.flags.writeable = False
    rows, found = suppress(boxes, labels, merge=merge, weight_exp=10, **settings)
    assert rows.dtype == np.float32 and found.dtype == np.int64
    assert (np.diff(found) >= 0).all()
    for label in (0, 2, 7):
        own = boxes[labels == label]
        wanted, kept = of_one_class(own, weight_exp=10 if merge else None, **settings)
        assert np.array_equal(rows[found == label], wanted[:kept])
        assert (np.diff(rows[found == label, 4]) <= 1e-6).all()  # in the order of selection


def test_stale_rows_are_dropped_or_kept():
    boxes = random_boxes(40, 1)
    labels = np.arange(40) % 2
    settings = {"method": "nms", "nms_threshold": 0.2}
    rows, found = suppress(boxes, labels, **settings)
    stale, stale_labels = suppress(boxes, labels, keep_stale=True, **settings)
    assert len(rows) == len(found) < len(boxes) == len(stale) == len(stale_labels)
    for label in (0, 1):
        wanted, kept = of_one_class(boxes[label::2], **settings)
        assert np.array_equal(stale[stale_labels == label], wanted)
        assert np.array_equal(rows[found == label], wanted[:kept])


@pytest.mark.parametrize("keep_stale", [False, True])
def test_corner_scores_may_stay_in_their_row(keep_stale):
    boxes, settings = random_boxes(20, 4), {"method": "exp_soft_nms", "nms_threshold": 0.5}
    merged = suppress(
        boxes,
        np.zeros(20, np.int64),
        merge=True,
        weight_exp=8,
        keep_stale=keep_stale,
        swap_scores=False,
        **settings,
    )[0]
    wanted, kept = of_one_class(boxes, weight_exp=8, swap_scores=False, **settings)
    assert np.array_equal(merged, wanted if keep_stale else wanted[:kept])
    swapped, _ = of_one_class(boxes, weight_exp=8, **settings)
    assert not np.allclose(merged[:kept], swapped[:kept])


def test_nothing():
    rows, labels = suppress(
        np.empty((0, 7), np.float32), np.empty(0, np.int64), method="nms", nms_threshold=0.5
    )
    assert rows.shape == (0, 7) and labels.shape == (0,)


def test_sigma():
    boxes, labels = random_boxes(20, 2), np.zeros(20, np.int64)
    rows, _ = suppress(boxes, labels, method="exp_soft_nms", nms_threshold=0.5, sigma=0.7)
    wanted, kept = of_one_class(boxes, method="exp_soft_nms", sigma=0.7)
    assert np.array_equal(rows, wanted[:kept])


def test_keep_best():
    scores = np.array([0.5, 0.9, 0.1, 0.5, 0.7], np.float32)
    assert keep_best(scores, 5).all() and keep_best(scores, 9).all()
    assert keep_best(scores, 2).tolist() == [False, True, False, False, True]
    assert keep_best(scores, 3).tolist() == [True, True, False, True, True]  # a tie stays whole
    assert keep_best(np.empty(0, np.float32), 3).shape == (0,)
