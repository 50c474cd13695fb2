"""Soft-NMS: the reference's rows, and its in-place run written out as the oracle."""

import json
from pathlib import Path

import numpy as np
import pytest

from core.decode.soft_nms import keep_best, soft_nms, soft_nms_merge, suppress

GOLDEN_DIR = Path(__file__).parent / "golden"
METHODS = ("nms", "linear_soft_nms", "exp_soft_nms")


def golden_cases(name: str, function: str) -> list:
    """(boxes, settings, rows, kept) of the cases of one function."""
    golden = np.load(GOLDEN_DIR / f"{name}.npz")
    defaults, cases = json.loads(str(golden["defaults"])), []
    for number, meta in enumerate(json.loads(str(golden["meta"]))):
        if meta["fn"] != function:
            continue
        values = {**defaults, **meta}
        settings = {
            "method": METHODS[values["method"]],
            "nms_threshold": values["Nt"],
            "sigma": values["sigma"],
            "score_threshold": values["threshold"],
        }
        if function == "soft_nms_merge":
            settings["weight_exp"] = values["weight_exp"]
        rows = golden[f"case{number}_boxes"]
        kept = len(golden[f"case{number}_keep"]) if name == "soft_nms" else len(rows)
        label = "-".join(str(value) for value in list(meta.values())[1:])
        cases.append(pytest.param(golden[f"boxes_n{values['n']}"], settings, rows, kept, id=label))
    return cases


def random_boxes(count: int, seed: int, side: float = 30.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corners = rng.random((count, 2)) * side
    sizes = 2 + rng.random((count, 2)) * 20
    return np.hstack([corners, corners + sizes, rng.random((count, 3))]).astype(np.float32)


def in_place_run(boxes, method, nms_threshold, sigma, score_threshold, weight_exp, own_scores):
    """The reference's scan over the boxes, one at a time, in float64."""
    rows, active = boxes.astype(np.float64), len(boxes)
    columns = 7 if own_scores else 5
    first = 0
    while first < active:
        best = first + int(rows[first:active, 4].argmax())
        rows[[first, best], :columns] = rows[[best, first], :columns]
        box = rows[first].copy()
        sums = np.concatenate([box[:2] * box[5], box[2:4] * box[6], box[5:7]])
        at = first + 1
        while at < active:
            other = rows[at].copy()
            inner = np.minimum(box[2:4], other[2:4]) - np.maximum(box[:2], other[:2]) + 1
            if (inner > 0).all():
                areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (box, other)]
                iou = inner.prod() / (sum(areas) - inner.prod())
                factor = {
                    "nms": 1.0 - (iou > nms_threshold),
                    "linear_soft_nms": 1 - iou * (iou > nms_threshold),
                    "exp_soft_nms": np.exp(-(iou**2) / sigma),
                }[method]
                share = (1 - factor) ** (weight_exp or 1)
                tl, br = other[5] * share, other[6] * share
                sums += np.concatenate([other[:2] * tl, other[2:4] * br, [tl, br]])
                rows[at, 4] *= factor
                if rows[at, 4] < score_threshold:
                    rows[at, :columns] = rows[active - 1, :columns]
                    active -= 1
                    continue
            at += 1
        if weight_exp is not None:
            rows[first, :2], rows[first, 2:4] = sums[:2] / sums[4], sums[2:4] / sums[5]
        first += 1
    return rows, active


@pytest.mark.parametrize("boxes, settings, rows, kept", golden_cases("soft_nms", "soft_nms"))
def test_golden(boxes, settings, rows, kept):
    ours, count = soft_nms(boxes, **settings)
    assert count == kept
    np.testing.assert_allclose(ours[:, :4], rows[:, :4], rtol=0, atol=1e-4)
    np.testing.assert_allclose(ours[:, 4], rows[:, 4], rtol=0, atol=1e-5)


@pytest.mark.parametrize("boxes, settings, rows, kept", golden_cases("soft_nms", "soft_nms_merge"))
def test_golden_merge_of_the_reference(boxes, settings, rows, kept):
    ours, count = soft_nms_merge(boxes, **settings, swap_scores=False)
    assert count == kept
    np.testing.assert_allclose(ours[:, :4], rows[:, :4], rtol=0, atol=1e-3)
    np.testing.assert_allclose(ours[:, 4:], rows[:, 4:], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "boxes, settings, rows, kept", golden_cases("soft_nms_merge_corrected", "soft_nms_merge")
)
def test_golden_merge(boxes, settings, rows, kept):
    ours, count = soft_nms_merge(boxes, **settings)
    assert count == kept
    np.testing.assert_allclose(ours[:count, :4], rows[:, :4], rtol=0, atol=1e-3)
    np.testing.assert_allclose(ours[:count, 4:], rows[:, 4:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count, score_threshold", [(2, 0.5), (12, 0.3), (30, 0.1), (60, 0.001)])
@pytest.mark.parametrize("merge, own_scores", [(False, True), (True, True), (True, False)])
def test_in_place_run(method, count, score_threshold, merge, own_scores):
    """Many boxes are dropped, so that those that fill the gaps are dropped in their turn."""
    settings = {"nms_threshold": 0.2, "sigma": 0.3, "score_threshold": score_threshold}
    for seed in range(8):
        boxes = random_boxes(count, seed)
        if merge:
            ours, kept = soft_nms_merge(
                boxes, method=method, weight_exp=8, swap_scores=own_scores, **settings
            )
        else:
            ours, kept = soft_nms(boxes, method=method, **settings)
        wanted, wanted_kept = in_place_run(
            boxes, method, *settings.values(), 8 if merge else None, own_scores
        )
        assert kept == wanted_kept
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4)


def test_empty():
    for function in (soft_nms, soft_nms_merge):
        rows, kept = function(np.empty((0, 7), np.float32), method="exp_soft_nms")
        assert rows.shape == (0, 7) and kept == 0


def test_equal_scores_of_zero_do_not_divide_by_zero():
    boxes = random_boxes(4, 0)
    boxes[:, 4:] = 0
    rows, _ = soft_nms_merge(boxes, method="nms", score_threshold=-1.0)
    assert np.isfinite(rows).all()


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_suppress_treats_each_class_by_itself(merge, method):
    boxes, settings = random_boxes(60, 3), {"method": method, "nms_threshold": 0.4}
    labels = np.random.default_rng(0).choice([0, 2, 7], 60)
    before = boxes.copy()
    rows, found = suppress(boxes, labels, merge=merge, weight_exp=10, **settings)
    assert np.array_equal(boxes, before)
    assert rows.dtype == np.float32 and found.dtype == np.int64
    assert (np.diff(found) >= 0).all()
    for label in (0, 2, 7):
        own = boxes[labels == label]
        if merge:
            wanted, kept = soft_nms_merge(own, weight_exp=10, **settings)
        else:
            wanted, kept = soft_nms(own, **settings)
        assert np.array_equal(rows[found == label], wanted[:kept])
        assert (np.diff(rows[found == label, 4]) <= 1e-6).all()  # in the order of selection


def test_suppress_drops_what_hard_suppression_takes_and_the_reference_keeps():
    boxes = random_boxes(40, 1)
    labels = np.arange(40) % 2
    settings = {"method": "nms", "nms_threshold": 0.2}
    rows, found = suppress(boxes, labels, **settings)
    stale, stale_labels = suppress(boxes, labels, reference_scoring=True, **settings)
    assert len(rows) == len(found) < len(boxes) == len(stale) == len(stale_labels)
    merged = suppress(boxes, labels, merge=True, reference_scoring=True, **settings)[0]
    wanted = soft_nms_merge(boxes[::2], weight_exp=8, swap_scores=False, **settings)[0]
    assert np.array_equal(merged[:20], wanted)


def test_suppress_of_nothing():
    rows, labels = suppress(
        np.empty((0, 7), np.float32), np.empty(0, np.int64), method="nms", nms_threshold=0.5
    )
    assert rows.shape == (0, 7) and labels.shape == (0,)


def test_suppress_passes_sigma_on():
    boxes, labels = random_boxes(20, 2), np.zeros(20, np.int64)
    rows, _ = suppress(boxes, labels, method="exp_soft_nms", nms_threshold=0.5, sigma=0.7)
    wanted, kept = soft_nms(boxes, method="exp_soft_nms", sigma=0.7)
    assert np.array_equal(rows, wanted[:kept])


def test_keep_best():
    scores = np.array([0.5, 0.9, 0.1, 0.5, 0.7], np.float32)
    assert keep_best(scores, 5).all() and keep_best(scores, 9).all()
    assert keep_best(scores, 2).tolist() == [False, True, False, False, True]
    assert keep_best(scores, 3).tolist() == [True, True, False, True, True]  # a tie stays whole
    assert keep_best(np.empty(0, np.float32), 3).shape == (0,)
