"""The numbers of a report, against loops that take one detection after the other."""

import itertools

import numpy as np
import pytest

from core.evaluation import analysis
from core.evaluation.matching import Matched

CLASSES = 3


def make_matched(seed=0, detections=120, objects=50, images=6):
    """Matches that could be, on boxes so near each other that many overlap."""
    rng = np.random.default_rng(seed)

    def boxes(count):
        starts = rng.integers(0, 20, (count, 2))
        return np.concatenate([starts, rng.integers(20, 60, (count, 2))], 1).astype(float)

    labels, object_labels = rng.integers(0, CLASSES, detections), rng.integers(0, 2, objects)
    places, object_places = rng.integers(0, images, detections), rng.integers(0, images, objects)
    scores = np.sort(rng.integers(0, 31, detections) / 31)[::-1]  # some are equal
    found, object_scores = np.full(detections, -1), np.full(objects, -np.inf)
    for row in range(detections):
        own = (object_labels == labels[row]) & (object_places == places[row])
        free = np.flatnonzero(own & (object_scores == -np.inf))
        if len(free) and rng.random() < 0.5:
            found[row] = free[0]
            object_scores[free[0]] = scores[row]
    areas = rng.integers(1, 20_000, objects).astype(float)
    areas[:3] = [32.0**2, 96.0**2, 96.0**2 - 1]
    return Matched(
        boxes(detections),
        scores,
        places,
        labels,
        found,
        boxes(objects),
        areas,
        object_places,
        object_labels,
        object_scores,
    )


def test_precision_at_recalls():
    correct = np.array([True, True, False, True, False])
    precision = analysis.precision_at_recalls(correct, 4)
    for recall, value in zip(analysis.RECALLS, precision, strict=True):
        best = [0.0]
        for shown in range(1, len(correct) + 1):
            right = int(correct[:shown].sum())
            if right / 4 >= recall:
                best.append(right / shown)
        assert value == pytest.approx(max(best))
    assert precision[0] == 1 and precision[-1] == 0


@pytest.mark.parametrize("seed", range(4))
def test_the_best_threshold_is_that_of_all(seed):
    matched = make_matched(seed)
    correct, objects = matched.found >= 0, len(matched.object_labels)
    choice = analysis.best_choice(matched.scores, correct, objects)
    best = 0.0
    for threshold in set(matched.scores.tolist()):
        shown = matched.scores >= threshold
        right = int(correct[shown].sum())
        f1 = 2 * right / (shown.sum() + objects)
        best = max(best, f1)
        if threshold == choice.threshold:
            assert (choice.right, choice.detections) == (right, shown.sum())
            assert choice.f1 == pytest.approx(f1)
            assert choice.precision == right / shown.sum()
            assert choice.recall == right / objects
    assert choice.f1 == pytest.approx(best)


def test_no_threshold_without_a_right_detection():
    assert analysis.best_choice(np.zeros(0), np.zeros(0, bool), 3) is None
    assert analysis.best_choice(np.array([0.5]), np.array([False]), 0) is None


def test_curves_of_classes_and_of_all():
    matched = make_matched(1)
    by_class = analysis.curves_by_class({0.5: matched}, CLASSES)
    overall = analysis.overall_curves({0.5: matched}, by_class)
    for label, curves in enumerate(by_class):
        own = matched.labels == label
        correct = matched.found[own] >= 0
        assert curves.objects == (matched.object_labels == label).sum()
        for counts, kind in ((curves.right, correct), (curves.wrong, ~correct)):
            edges = np.linspace(0, 1, analysis.BINS + 1)
            expected = [
                sum(low <= s < high or s == high == 1 for s in matched.scores[own][kind])
                for low, high in itertools.pairwise(edges)
            ]
            assert counts.tolist() == expected
    assert by_class[2].objects == 0
    assert by_class[2].recall is None and by_class[2].best is None
    assert np.isnan(by_class[2].precision[0.5]).all()
    mean = (by_class[0].precision[0.5] + by_class[1].precision[0.5]) / 2
    np.testing.assert_allclose(overall.precision[0.5], mean)
    assert overall.objects == 50
    assert overall.right.sum() == (matched.found >= 0).sum()
    assert overall.recall == matched.object_found.mean()


def iou_of(one, other):
    width, height = (
        min(one[n] + one[n + 2], other[n] + other[n + 2]) - max(one[n], other[n]) for n in (0, 1)
    )
    both = max(width, 0) * max(height, 0)
    return both / (one[2] * one[3] + other[2] * other[3] - both)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0.0, 0.5, 2.0])
def test_confusions(seed, threshold):
    matched = make_matched(seed)
    counts = analysis.confusion_matrix(matched, threshold, 0.5, CLASSES)
    expected = np.zeros((CLASSES + 1, CLASSES + 1), int)
    free = {row for row, score in enumerate(matched.object_scores) if score < threshold}
    for row in range(len(matched.scores)):
        if matched.scores[row] < threshold:
            continue
        label = matched.labels[row]
        if matched.found[row] >= 0:
            expected[label, label] += 1
            continue
        best, taken = 0.5, None
        for other in sorted(free):
            if matched.object_images[other] == matched.images[row]:
                overlap = iou_of(matched.boxes[row], matched.object_boxes[other])
                if overlap >= best:
                    best, taken = overlap, other
        expected[CLASSES if taken is None else matched.object_labels[taken], label] += 1
        free.discard(taken)
    for row in free:
        expected[matched.object_labels[row], CLASSES] += 1
    np.testing.assert_array_equal(counts, expected)
    assert counts[:CLASSES].sum() == len(matched.object_labels)


def test_sizes():
    matched = make_matched(2)
    buckets = analysis.size_buckets(matched)
    sizes = [
        "small" if area < 32**2 else "medium" if area < 96**2 else "large"
        for area in matched.object_areas
    ]
    assert sizes[:3] == ["medium", "large", "medium"]
    for name, bucket in buckets.items():
        own = np.array(sizes) == name
        assert bucket.objects == own.sum()
        assert bucket.found == matched.object_found[own].sum()
