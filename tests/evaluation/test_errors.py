"""Types of error and their costs: layouts made by hand, and a slow search scored by pycocotools."""

import json

import numpy as np
import pytest

from core.data.coco import CocoDetection
from core.evaluation.coco import score_results
from core.evaluation.errors import ALL_TYPES, TYPES, find_errors
from tests.support.dbs_files import annotation

CATEGORIES = (17, 90)  # labels 0 and 1
A, B = [0, 0, 100, 100], [200, 0, 100, 100]  # two objects, xywh
PART = [0, 0, 40, 100]  # IoU with A: 0.4


def dataset(root, objects):
    """A dataset of images 1 to 40; objects are (image, label, box) or (…, True) for a crowd."""
    annotations = [
        annotation(
            number, image, CATEGORIES[label], list(box), iscrowd=int(any(crowd)), area=box[2]
        )
        for number, (image, label, box, *crowd) in enumerate(objects, 1)
    ]
    image = {"height": 300, "width": 400}
    images = [{"id": n, "file_name": f"{n}.jpg", **image} for n in range(1, 41)]
    categories = [{"id": n, "name": f"class {n}"} for n in CATEGORIES]
    file = root / "truth.json"
    content = {"images": images, "annotations": annotations, "categories": categories}
    file.write_text(json.dumps(content))
    return CocoDetection(file, root)


def results(found):
    """COCO's list; detections are (image, label, box, score)."""
    return [
        {"image_id": image, "category_id": CATEGORIES[label], "bbox": list(box), "score": score}
        for image, label, box, score in found
    ]


def errors_of(root, objects, found):
    return find_errors(results(found), dataset(root, objects))


def expect(breakdown, ap50, counts, **costs):
    """Compares a breakdown; counts and costs that are not given must be 0."""
    assert breakdown.ap50 == pytest.approx(ap50, abs=1e-12)
    assert breakdown.counts == {**dict.fromkeys(ALL_TYPES, 0), **counts}
    assert breakdown.costs == pytest.approx({**dict.fromkeys(ALL_TYPES, 0), **costs}, abs=1e-12)


def test_perfect_detections_lose_nothing(tmp_path):
    objects = [(1, 0, A), (1, 0, B), (2, 1, A)]
    found = [(*one, 0.5 + 0.1 * n) for n, one in enumerate(objects)]
    errors = errors_of(tmp_path, objects, found)
    expect(errors.overall, 1, {})
    assert errors.overall.objects == 3
    assert list(errors.by_class) == ["class 17", "class 90"]
    expect(errors.by_class["class 90"], 1, {})


def test_a_box_that_lies_badly(tmp_path):
    objects = [(1, 0, A), (1, 0, B)]
    errors = errors_of(tmp_path, objects, [(1, 0, B, 0.9), (1, 0, PART, 0.8)])
    counts = {"localization": 1, "false_positive": 1, "false_negative": 1}
    half = 50 / 101  # the recalls above one half
    expect(errors.overall, 1 - half, counts, localization=half, false_negative=half)

    first = errors_of(tmp_path, objects, [(1, 0, B, 0.9), (1, 0, PART, 0.95)])
    ap50 = 51 / 101 / 2  # the precision is one half, up to a recall of one half
    expect(
        first.overall,
        ap50,
        counts,
        localization=1 - ap50,
        false_negative=0.5 - ap50,
        false_positive=51 / 101 - ap50,
    )


def test_two_on_one_object(tmp_path):
    found = [(1, 0, A, 0.9), (1, 0, [2, 0, 100, 100], 0.8), (1, 0, B, 0.7)]
    errors = errors_of(tmp_path, [(1, 0, A), (1, 0, B)], found)
    loss = 50 / 101 / 3  # the precision is 2/3 where the second object is needed
    counts = {"duplicate": 1, "false_positive": 1}
    expect(errors.overall, 1 - loss, counts, duplicate=loss, false_positive=loss)


def test_a_wrong_class(tmp_path):
    found = [(1, 1, A, 0.9), (1, 1, B, 0.8)]
    errors = errors_of(tmp_path, [(1, 0, A), (1, 1, B)], found)
    expect(
        errors.overall,
        0.25,
        {"classification": 1, "false_positive": 1, "false_negative": 1},
        classification=0.75,
        false_positive=0.25,
        false_negative=0.5,
    )
    # The detection counts in its class; fixing it brings the object's class from 0 to 1.
    of_object, of_detection = errors.by_class.values()
    assert (of_object.counts["classification"], of_detection.counts["classification"]) == (0, 1)
    costs = [one.costs["classification"] for one in (of_object, of_detection)]
    assert costs == pytest.approx([1, 0.5])


def test_a_wrong_class_that_also_lies_badly(tmp_path):
    found = [(1, 1, PART, 0.9), (1, 1, B, 0.8)]
    errors = errors_of(tmp_path, [(1, 0, A), (1, 1, B)], found)
    expect(
        errors.overall,
        0.25,
        {"both": 1, "missed": 1, "false_positive": 1, "false_negative": 1},
        both=0.25,
        missed=0.5,
        false_positive=0.25,
        false_negative=0.5,
    )


@pytest.mark.parametrize("image", [1, 2])
@pytest.mark.parametrize("box", [[300, 200, 20, 20], [90, 0, 100, 100]])
def test_background(tmp_path, image, box):
    """It touches no object, or one by an IoU of 0.05, or its image has none."""
    found = [(1, 0, A, 0.9), (image, 0, box, 0.95)]
    errors = errors_of(tmp_path, [(1, 0, A)], found)
    counts = {"background": 1, "false_positive": 1}
    expect(errors.overall, 0.5, counts, background=0.5, false_positive=0.5)


def test_a_missed_object(tmp_path):
    errors = errors_of(tmp_path, [(1, 0, A), (1, 0, B)], [(1, 0, B, 0.9)])
    half = 50 / 101
    counts = {"missed": 1, "false_negative": 1}
    expect(errors.overall, 1 - half, counts, missed=half, false_negative=half)


def test_nothing_found(tmp_path):
    errors = errors_of(tmp_path, [(1, 0, A), (1, 0, B)], [])
    expect(errors.overall, 0, {"missed": 2, "false_negative": 2}, missed=1, false_negative=1)
    # A class without objects has no AP, and does not count in the mean.
    empty = errors.by_class["class 90"]
    assert (empty.ap50, empty.objects, empty.costs["missed"]) == (None, 0, None)


def test_no_object_at_all(tmp_path):
    errors = errors_of(tmp_path, [], [(1, 0, A, 0.9)])
    assert errors.overall.ap50 is None and errors.overall.costs["background"] is None
    assert errors.overall.counts["background"] == 1


def test_crowds_are_nobodys_errors(tmp_path):
    """A detection in a crowd of its class is left out; the crowd is not missed."""
    crowd = (1, 0, [150, 0, 200, 200], True)
    found = [(1, 0, A, 0.9), (1, 0, [160, 10, 50, 50], 0.95)]
    errors = errors_of(tmp_path, [(1, 0, A), crowd], found)
    expect(errors.overall, 1, {})
    assert errors.overall.objects == 1


def test_an_object_is_found_once_by_fixed_detections(tmp_path):
    """The best of several detections that mean an object takes it; the others are removed."""
    found = [(1, 0, PART, 0.9), (1, 0, [0, 0, 100, 30], 0.8), (1, 0, B, 0.7), (1, 1, A, 0.6)]
    errors = errors_of(tmp_path, [(1, 0, A), (1, 0, B)], found)
    base = 51 / 101 / 3
    expect(
        errors.overall,
        base,
        {"localization": 2, "classification": 1, "false_positive": 3, "false_negative": 1},
        localization=1 - base,
        false_positive=51 / 101 - base,
        false_negative=1 / 3 - base,
    )

    # An object that was found stays with the detection that found it.
    taken = errors_of(tmp_path, [(1, 0, A)], [(1, 0, PART, 0.9), (1, 0, A, 0.5)])
    counts = {"localization": 1, "false_positive": 1}
    expect(taken.overall, 0.5, counts, localization=0.5, false_positive=0.5)


def test_own_class_is_meant_before_others(tmp_path):
    objects = [(1, 0, A), (1, 1, PART)]
    found = [(1, 0, PART, 0.9), (1, 1, PART, 0.8)]
    errors = errors_of(tmp_path, objects, found)  # IoU 0.4 with its class, 1 with the other
    assert errors.overall.counts["localization"] == 1
    assert errors.overall.counts["classification"] == 0


def random_layout(seed):
    """Objects and detections of every kind, some of equal scores."""
    rng = np.random.default_rng(seed)
    objects, found = [], []
    for image in range(1, 25):
        for _ in range(rng.integers(0, 8)):
            size = rng.uniform(10, 120, 2)
            box = np.array([*rng.uniform(0, [400, 300] - size), *size])
            label = int(rng.integers(2))
            objects.append((image, label, box.tolist(), bool(rng.random() < 0.05)))
            for _ in range(rng.integers(0, 4)):
                moved = box + rng.normal(0, 8 * rng.choice([0.3, 1, 2]), 4)
                moved[2:] = moved[2:].clip(2)
                seen = label if rng.random() < 0.8 else 1 - label
                found.append((image, seen, moved.tolist(), round(rng.random(), 2)))
        for _ in range(rng.integers(0, 3)):
            box = [*rng.uniform(0, 200, 2).tolist(), *rng.uniform(10, 90, 2).tolist()]
            found.append((image, int(rng.integers(2)), box, round(rng.random(), 2)))
    return objects, found


def overlap(one, other, crowd=False):
    (x0, y0, w0, h0), (x1, y1, w1, h1) = one, other
    inside = [
        max(0, min(a + s, b + t) - max(a, b)) for a, s, b, t in ((x0, w0, x1, w1), (y0, h0, y1, h1))
    ]
    area = inside[0] * inside[1]
    return area / (w0 * h0 if crowd else w0 * h0 + w1 * h1 - area)


def search(objects, found):
    """Types and objects meant of the wrong detections, and which objects were found, by loops."""
    finders, wrong = {}, {}
    order = sorted(range(len(found)), key=lambda n: -found[n][3])
    for number in order:
        image, label, box, _ = found[number]
        own = [n for n, one in enumerate(objects) if one[:2] == (image, label)]
        real = [n for n in own if not objects[n][3] and n not in finders]
        best = max(real, key=lambda n: overlap(box, objects[n][2]), default=None)
        crowds = [n for n in own if objects[n][3]]
        if best is not None and overlap(box, objects[best][2]) >= 0.5:
            finders[best] = number
        elif not any(overlap(box, objects[n][2], crowd=True) >= 0.5 for n in crowds):
            wrong[number] = None
    for number in wrong:
        image, label, box, _ = found[number]
        ious = {True: (0, None), False: (0, None)}
        for n, (there, name, other, crowd) in enumerate(objects):
            if there == image and not crowd:
                same = name == label
                ious[same] = max(ious[same], (overlap(box, other), n), key=lambda pair: pair[0])
        (own, mine), (other, others) = ious[True], ious[False]
        if 0.1 <= own < 0.5:
            wrong[number] = "localization", mine
        elif other >= 0.5:
            wrong[number] = "classification", others
        elif own >= 0.5:
            wrong[number] = "duplicate", None
        else:
            wrong[number] = "background" if max(own, other) <= 0.1 else "both", None
    return finders, wrong


@pytest.mark.parametrize("seed", range(4))
def test_slow_search(tmp_path, seed):
    """Errors are fixed one type at a time in the results or the truth, which pycocotools scores."""
    objects, found = random_layout(seed)
    errors = errors_of(tmp_path, objects, found).overall
    finders, wrong = search(objects, found)
    takers = {}
    for number in sorted(wrong, key=lambda n: -found[n][3]):
        meant = wrong[number][1]
        if meant is not None and meant not in finders:
            takers.setdefault(meant, number)

    def ap50(detections, truth=objects):
        return score_results(results(detections), dataset(tmp_path, truth)).metrics["AP50"]

    base = ap50(found)
    assert errors.ap50 == pytest.approx(base, abs=1e-12) and 0.1 < base < 0.9
    for name in TYPES[:-1]:
        fixed, count = [], 0
        for number, detection in enumerate(found):
            kind, meant = wrong.get(number, (None, None))
            count += kind == name
            if kind != name:
                fixed.append(detection)
            elif takers.get(meant) == number:
                image, label, box, _ = objects[meant]
                moved = box if name == "localization" else detection[2]
                fixed.append((image, label, moved, detection[3]))
        assert errors.counts[name] == count > 0, name
        assert errors.costs[name] == pytest.approx(ap50(fixed) - base, abs=1e-12), name
    real = {n for n, one in enumerate(objects) if not one[3]}
    lost, missed = real - set(finders), real - set(finders) - set(takers)
    for name, gone in (("missed", missed), ("false_negative", lost)):
        left = [one for n, one in enumerate(objects) if n not in gone]
        assert errors.counts[name] == len(gone) > 0, name
        assert errors.costs[name] == pytest.approx(ap50(found, left) - base, abs=1e-12), name
    right = [detection for n, detection in enumerate(found) if n not in wrong]
    assert errors.costs["false_positive"] == pytest.approx(ap50(right) - base, abs=1e-12)


@pytest.mark.parametrize("seed", range(4, 10))
def test_sums(tmp_path, seed):
    objects, found = random_layout(seed)
    errors = errors_of(tmp_path, objects, found)
    overall, classes = errors.overall, errors.by_class.values()
    assert overall.ap50 == pytest.approx(
        score_results(results(found), dataset(tmp_path, objects)).metrics["AP50"], abs=1e-12
    )
    assert overall.ap50 == pytest.approx(np.mean([one.ap50 for one in classes]))
    assert overall.objects == sum(one.objects for one in classes)
    for name in ALL_TYPES:
        assert overall.counts[name] == sum(one.counts[name] for one in classes)
        assert overall.costs[name] == pytest.approx(np.mean([one.costs[name] for one in classes]))
        assert 0 <= overall.costs[name] <= 1 - overall.ap50
    assert sum(overall.counts[name] for name in TYPES[:-1]) == overall.counts["false_positive"]
    assert overall.counts["missed"] <= overall.counts["false_negative"]


def test_of_a_class_in_an_image_the_best_100_count(tmp_path):
    found = [(1, 0, [300, 200, 20, 20], 0.9 - n / 1000) for n in range(110)]
    errors = errors_of(tmp_path, [(1, 0, A)], [(1, 0, A, 0.1), *found])
    assert errors.overall.counts["background"] == 100 and errors.overall.counts["missed"] == 1
