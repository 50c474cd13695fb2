"""Soft-NMS against the reference's rows and against its loop in NumPy, native and fallback."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cpools_ext import native, soft_nms_reference
from cpools_ext.soft_nms import METHODS, soft_nms

GOLDEN_DIR = Path(__file__).parents[1] / "golden"
CORNERS = [(None, True), (8.0, True), (8.0, False)]  # weight_exp, swap_scores

Run = Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]


def run_fallback(detections: np.ndarray, labels: np.ndarray, **settings) -> tuple:
    given = {"weight_exp": None, "swap_scores": True, "score_threshold": 0.001, **settings}
    method = METHODS[given.pop("method")]
    return soft_nms_reference.soft_nms(detections, labels, method, **given)


def run_operator(detections: np.ndarray, labels: np.ndarray, **settings) -> tuple:
    results = soft_nms(torch.from_numpy(detections), torch.from_numpy(labels), **settings)
    return tuple(result.numpy() for result in results)


def skip_without_binary() -> None:
    if native.load() is not None:
        pytest.skip(f"no native operators: {native.load()}")
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key("cpools_ext::soft_nms", "CPU")
    assert has_kernel, "the binary is older than the operator: build it again"


@pytest.fixture(params=["native", "fallback"])
def run(request: pytest.FixtureRequest) -> Run:
    if request.param == "fallback":
        return run_fallback
    skip_without_binary()
    return run_operator


def golden_cases(name: str, function: str) -> list:
    """Cases of one function: (boxes, settings, rows, kept)."""
    golden = np.load(GOLDEN_DIR / f"{name}.npz")
    defaults, cases = json.loads(str(golden["defaults"])), []
    for number, meta in enumerate(json.loads(str(golden["meta"]))):
        if meta["fn"] != function:
            continue
        values = {**defaults, **meta}
        settings = {
            "method": list(METHODS)[values["method"]],
            "nms_threshold": values["Nt"],
            "sigma": values["sigma"],
            "score_threshold": values["threshold"],
        }
        if function == "soft_nms_merge":
            settings["weight_exp"] = values["weight_exp"]
            settings["swap_scores"] = name == "soft_nms_merge_corrected"
        rows = golden[f"case{number}_boxes"]
        kept = len(golden[f"case{number}_keep"]) if name == "soft_nms" else len(rows)
        label = "-".join(str(value) for value in [*settings.values(), values["n"]])
        cases.append(pytest.param(golden[f"boxes_n{values['n']}"], settings, rows, kept, id=label))
    return cases


GOLDEN = [
    *golden_cases("soft_nms", "soft_nms"),
    *golden_cases("soft_nms", "soft_nms_merge"),
    *golden_cases("soft_nms_merge_corrected", "soft_nms_merge"),
]


def random_boxes(count: int, seed: int, side: float = 30.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corners = rng.random((count, 2)) * side
    sizes = 2 + rng.random((count, 2)) * 20
    return np.hstack([corners, corners + sizes, rng.random((count, 3))]).astype(np.float32)


def in_place_run(boxes, method, nms_threshold, sigma, score_threshold, weight_exp, swap_scores):
    """The reference's scan over the boxes of a class, one at a time, in float64."""
    rows, active = boxes.astype(np.float64), len(boxes)
    columns = 7 if swap_scores else 5
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
                scale = (1 - factor) ** (weight_exp or 1)
                tl, br = other[5] * scale, other[6] * scale
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


@pytest.mark.parametrize("boxes, settings, rows, kept", GOLDEN)
def test_golden(boxes, settings, rows, kept, run):
    ours, labels, flags = run(boxes, np.full(len(boxes), 3), **settings)
    assert flags.tolist() == [True] * kept + [False] * (len(boxes) - kept)
    assert (labels == 3).all()
    merging = "weight_exp" in settings
    columns = 7 if merging else 5  # without merging the reference leaves the corner scores alone
    ours = ours[: len(rows)]
    np.testing.assert_allclose(ours[:, :4], rows[:, :4], rtol=0, atol=1e-3 if merging else 1e-4)
    np.testing.assert_allclose(ours[:, 4:columns], rows[:, 4:columns], rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count, score_threshold", [(2, 0.5), (12, 0.3), (30, 0.1), (60, 0.001)])
@pytest.mark.parametrize("weight_exp, swap_scores", CORNERS)
def test_in_place_run(method, count, score_threshold, weight_exp, swap_scores, run):
    """Many boxes are dropped, so that those that fill the gaps are dropped in their turn."""
    settings = {
        "method": method,
        "nms_threshold": 0.2,
        "sigma": 0.3,
        "score_threshold": score_threshold,
        "weight_exp": weight_exp,
        "swap_scores": swap_scores,
    }
    boxes = np.concatenate([random_boxes(count, seed) for seed in range(8)])
    labels = np.repeat(np.arange(8), count)
    mixed = np.random.default_rng(1).permutation(8 * count)
    ours, found, flags = run(boxes[mixed], labels[mixed], **settings)
    np.testing.assert_array_equal(found, labels)
    for label in range(8):
        wanted, kept = in_place_run(boxes[mixed][labels[mixed] == label], **settings)
        own = found == label
        assert flags[own].tolist() == [True] * kept + [False] * (count - kept)
        np.testing.assert_allclose(ours[own], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weight_exp, swap_scores", CORNERS)
@pytest.mark.parametrize("ties", [False, True])
def test_native_equals_fallback(method, weight_exp, swap_scores, ties):
    """Classes of every size, numbers far apart; ties are of scores and of whole boxes."""
    skip_without_binary()
    rng = np.random.default_rng(7)
    for seed, score_threshold in enumerate([0.0, 0.001, 0.2, 0.5]):
        boxes = random_boxes(150, seed)
        if ties:
            boxes = np.round(boxes[rng.integers(0, 60, 150)], 1)
        labels = rng.choice([-5, 0, 1, 2, 70, 2**40], 150, p=[0.01, 0.04, 0.05, 0.2, 0.3, 0.4])
        settings = {
            "method": method,
            "nms_threshold": 0.4,
            "sigma": 0.7,
            "score_threshold": score_threshold,
            "weight_exp": weight_exp,
            "swap_scores": swap_scores,
        }
        before = boxes.copy(), labels.copy()
        ours, wanted = (run(boxes, labels, **settings) for run in (run_operator, run_fallback))
        np.testing.assert_array_equal(boxes, before[0])
        np.testing.assert_array_equal(labels, before[1])
        np.testing.assert_allclose(ours[0], wanted[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(ours[1], wanted[1])
        np.testing.assert_array_equal(ours[2], wanted[2])


@pytest.mark.parametrize("weight_exp, swap_scores", CORNERS)
@pytest.mark.parametrize("method", METHODS)
def test_one_box_and_none(method, weight_exp, swap_scores, run):
    settings = {"method": method, "nms_threshold": 0.3, "sigma": 0.5}
    settings |= {"weight_exp": weight_exp, "swap_scores": swap_scores}
    boxes = random_boxes(1, 0)
    rows, labels, kept = run(boxes, np.array([4]), **settings)
    np.testing.assert_allclose(rows, boxes, rtol=1e-6)
    assert labels.tolist() == [4] and kept.tolist() == [True]
    rows, labels, kept = run(boxes[:0], np.array([4])[:0], **settings)
    assert rows.shape == (0, 7) and labels.shape == kept.shape == (0,)
    assert (rows.dtype, labels.dtype, kept.dtype) == (np.float32, np.int64, np.bool_)


def test_equal_boxes_keep_their_order(run):
    boxes = np.repeat(random_boxes(1, 0), 4, axis=0)
    boxes[:, 6] = [0.1, 0.2, 0.3, 0.4]  # distinguishes them
    settings = {"method": "linear_soft_nms", "nms_threshold": 2.0, "sigma": 0.5}
    rows, _, kept = run(boxes, np.zeros(4, np.int64), **settings)
    assert kept.all()
    np.testing.assert_array_equal(rows, boxes)


def test_scores_of_zero_do_not_divide_by_zero(run):
    boxes = random_boxes(4, 0)
    boxes[:, 4:] = 0
    settings = {"method": "nms", "nms_threshold": 0.3, "sigma": 0.5, "score_threshold": -1.0}
    rows, _, _ = run(boxes, np.zeros(4, np.int64), weight_exp=8.0, **settings)
    assert np.isfinite(rows).all()


def test_strided_detections():
    decoded = torch.from_numpy(np.hstack([random_boxes(20, 3), np.zeros((20, 5), np.float32)]))
    labels = torch.zeros(40, dtype=torch.int64)
    strided = soft_nms(decoded[:, :7], labels[::2], method="exp_soft_nms")
    dense = soft_nms(decoded[:, :7].contiguous(), labels[:20], method="exp_soft_nms")
    assert all(torch.equal(one, other) for one, other in zip(strided, dense, strict=True))
