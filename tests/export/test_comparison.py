"""Detections are compared with the most similar ones of their class."""

import numpy as np
import pytest

from core.export import comparison
from core.export.comparison import compare, median_times
from core.structures import Detections

BOXES = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [20, 20, 30, 30]], np.float32)


def detections(boxes=BOXES, scores=(0.9, 0.8, 0.01), labels=(0, 1, 0)):
    return Detections(np.array(boxes), np.array(scores, np.float32), np.array(labels))


def test_the_same_in_another_order():
    order = [1, 2, 0]
    one = detections()
    other = Detections(one.boxes[order], one.scores[order], one.labels[order])
    assert compare([one], [other]) == (4, 0, 0, 0)  # both ways, without the low score


def test_largest_differences():
    moved = BOXES + np.float32([[0, 0, 0.25, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    found = compare([detections()] * 2, [detections(), detections(moved, (0.9, 0.795, 0.01))])
    assert found[:2] == (8, 0)
    assert found[2:] == pytest.approx((0.25, 0.005), rel=1e-4)


@pytest.mark.parametrize(
    "other",
    [
        detections(labels=(0, 2, 0)),
        detections(BOXES + np.float32(2)),
        detections(scores=(0.9, 0.7, 0.01)),
        detections(BOXES[:1], (0.9,), (0,)),
        detections(np.zeros((0, 4), np.float32), (), ()),
    ],
)
def test_missing_ones(other):
    assert compare([detections()], [other]).missing > 0


def test_medians_of_functions_in_turn(monkeypatch):
    clock, calls = [0.0], []
    monkeypatch.setattr(comparison.time, "perf_counter", lambda: clock[0])

    def run(name, seconds):
        calls.append(name)
        clock[0] += seconds[calls.count(name) - 1]

    runs = [lambda: run("a", [9, 1, 5, 2]), lambda: run("b", [9, 3, 3, 4])]
    assert median_times(runs, 3) == [2, 3]
    assert calls == ["a", "b"] * 4
