"""Matching of detections and objects: cases made by hand, and pycocotools on random ones."""

import contextlib
import io
import json

import numpy as np
import pytest

from core.data.coco import CocoDetection
from core.evaluation.coco import coco_evaluation
from core.evaluation.matching import (
    IN_CROWD,
    MOST_DETECTIONS,
    WRONG,
    by_image,
    find_matches,
    match_image,
    overlaps_of,
)
from tests.support.dbs_files import annotation


def match(overlaps, own=None, crowd=None, iou=0.5):
    overlaps = np.array(overlaps, np.float64)
    own = np.ones(overlaps.shape, bool) if own is None else np.array(own, bool)
    crowd = np.zeros(overlaps.shape[1], bool) if crowd is None else np.array(crowd, bool)
    return match_image(overlaps, own, crowd, iou).tolist()


def test_the_best_detection_chooses_first():
    assert match([[0.6, 0.9], [0.7, 0.95], [0.8, 0.8]]) == [1, 0, WRONG]


def test_an_overlap_of_exactly_the_iou_is_enough():
    assert match([[0.5], [0.49]]) == [0, WRONG]
    assert match([[0.49], [0.5]]) == [WRONG, 0]
    assert match([[1.0]], iou=1.0) == [0]


def test_of_equal_overlaps_the_last_object_is_taken():
    assert match([[0.6, 0.6, 0.6], [0.6, 0.6, 0.6]]) == [2, 1]


def test_objects_of_other_classes_are_not_found():
    assert match([[0.9, 0.6]], own=[[False, True]]) == [1]


def test_a_crowd_takes_any_number_that_found_nothing_else():
    overlaps = [[0.9, 0.6], [0.9, 0.6], [0.9, 0.6], [0.4, 0.4]]
    assert match(overlaps, crowd=[True, False]) == [1, IN_CROWD, IN_CROWD, WRONG]


def test_nothing_to_match():
    nobody = np.zeros(0, bool)
    assert overlaps_of(np.zeros((0, 4)), np.ones((2, 4)), np.zeros(2, bool)).shape == (0, 2)
    assert overlaps_of(np.ones((2, 4)), np.zeros((0, 4)), nobody).shape == (2, 0)
    assert match(np.zeros((2, 0))) == [WRONG, WRONG]
    assert match(np.zeros((0, 2))) == []


def test_by_image():
    pairs = list(by_image(np.array([5, 2, 5, 9, 2]), np.array([2, 5, 7, 5])))
    assert [(rows.tolist(), objects.tolist()) for rows, objects in pairs] == [
        ([1, 4], [0]),
        ([0, 2], [1, 3]),
    ]


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """A dataset whose image ids and category ids are in no order, and detections with ties."""
    rng = np.random.default_rng(4)
    root = tmp_path_factory.mktemp("crowded")
    images = [40, 7, 12, 3, 99]
    categories = [90, 17, 55]

    def boxes(count):
        return np.concatenate(
            [rng.integers(0, 40, (count, 2)), rng.integers(8, 30, (count, 2))], 1
        ).tolist()

    annotations, found = [], []
    for image in images[:4]:
        for box in boxes(12):
            crowd = int(rng.random() < 0.15)
            category = int(rng.choice(categories))
            number = len(annotations) + 1
            area = box[2] * box[3]
            annotations.append(
                annotation(number, image, category, box, iscrowd=crowd) | {"area": area}
            )
    for image in images[1:]:
        for box in boxes(MOST_DETECTIONS + 60 if image == 12 else 40):
            category = 17 if image == 12 else int(rng.choice(categories))
            score = round(float(rng.random()), 1)
            row = {"image_id": image, "category_id": category, "bbox": box, "score": score}
            found.append(row)
    file = root / "truth.json"
    size = {"height": 80, "width": 80}
    content = {
        "images": [{"id": n, "file_name": f"{n}.jpg", **size} for n in images],
        "annotations": annotations,
        "categories": [{"id": n, "name": f"class {n}"} for n in categories],
    }
    file.write_text(json.dumps(content))
    order = rng.permutation(len(found))
    return [found[row] for row in order], CocoDetection(file, root)


def of_pycocotools(results, dataset, iou):
    """Pairs (detection's image, box, score, found object's box or None), crowds left out."""
    evaluation = coco_evaluation(results, dataset)
    evaluation.params.iouThrs = np.array([iou])
    evaluation.params.areaRng = [evaluation.params.areaRng[0]]
    evaluation.params.maxDets = [MOST_DETECTIONS]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
    pairs = []
    for entry in filter(None, evaluation.evalImgs):
        matches, ignored = entry["dtMatches"][0], entry["dtIgnore"][0]
        for number, other, is_ignored in zip(entry["dtIds"], matches, ignored, strict=True):
            if not is_ignored:
                row = results[number - 1]
                other = evaluation.cocoGt.anns[int(other)]["bbox"] if other else None
                pairs.append((row["image_id"], row["bbox"], row["score"], other))
    return sorted(pairs, key=str)


@pytest.mark.parametrize("iou", [0.3, 0.5, 0.75])
def test_matches_are_those_of_pycocotools(crowded, iou):
    results, dataset = crowded
    _, matched = find_matches(results, dataset, [0.9, iou])
    assert (np.diff(matched.scores) <= 0).all()
    pairs = [
        (
            int(dataset.image_ids[image]),
            box.tolist(),
            score,
            None if found < 0 else matched.object_boxes[found].tolist(),
        )
        for image, box, score, found in zip(
            matched.images, matched.boxes, matched.scores.tolist(), matched.found, strict=True
        )
    ]
    expected = of_pycocotools(results, dataset, iou)
    assert len(expected) > 150 and any(pair[3] for pair in expected)
    as_numbers = [(i, [float(x) for x in b], s, o) for i, b, s, o in expected]
    assert sorted(pairs, key=str) == sorted(as_numbers, key=str)


def test_objects_know_the_score_they_were_found_with(crowded):
    results, dataset = crowded
    (matched,) = find_matches(results, dataset, [0.5])
    assert len(matched.object_scores) == int((~dataset.truth().crowd).sum())
    for row, score in enumerate(matched.object_scores):
        finders = np.flatnonzero(matched.found == row)
        assert len(finders) == (score > -np.inf) == matched.object_found[row]
        assert all(matched.scores[finders] == score)
        assert all(matched.labels[finders] == matched.object_labels[row])
        assert all(matched.images[finders] == matched.object_images[row])


def test_no_detections(crowded):
    _, dataset = crowded
    (matched,) = find_matches([], dataset, [0.5])
    assert len(matched.scores) == 0 and not matched.object_found.any()
