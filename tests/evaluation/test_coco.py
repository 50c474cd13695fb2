"""COCO's results and metrics: against pycocotools' own way, and where that way fails."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from core.data.coco import CocoDetection
from core.evaluation.coco import METRICS, coco_evaluation, coco_results, score_results
from core.structures import Detections
from tests.support.dbs_files import annotation, coco_content, write_coco


def opened(root, **tables):
    return CocoDetection(write_coco(root, **tables), root / "images" / "train")


def many(root, images=12, seed=5):
    """A data set of random boxes in every size, some of them crowds."""
    rng = np.random.default_rng(seed)
    images = [
        {"id": 3 * n + 5, "file_name": f"{n}.jpg", "height": 200, "width": 300}
        for n in range(images)
    ]
    annotations = []
    for image in images:
        for _ in range(rng.integers(0, 9)):
            size = rng.uniform(5, 150, 2).round(2)
            box = [*rng.uniform(0, 300 - size[0], 1), *rng.uniform(0, 200 - size[1], 1), *size]
            category = int(rng.choice([90, -4, 17]))
            record = annotation(len(annotations) + 1, image["id"], category, box)
            annotations.append(
                {**record, "area": size.prod() * 0.7, "iscrowd": int(rng.random() < 0.1)}
            )
    return opened(root, images=images, annotations=annotations)


def near_truth(dataset, rng, noise=6.0):
    """Detections near the ground truth, with false ones among them."""
    found = []
    for index in range(len(dataset)):
        boxes = np.repeat(dataset.boxes(index), 2, 0) + rng.normal(0, noise, (1, 4))
        boxes = np.concatenate([boxes + rng.normal(0, noise, boxes.shape), [[0, 0, 40, 30]]])
        labels = np.concatenate([dataset.labels(index).repeat(2), rng.integers(0, 3, 1)])
        found.append(detections(boxes, rng.random(len(boxes)), labels))
    return found


def detections(boxes, scores, labels):
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    return Detections(boxes, np.asarray(scores, np.float32), np.asarray(labels, np.int64))


def truth(dataset):
    return [
        detections(boxes, np.ones(len(boxes)), dataset.labels(index))
        for index, boxes in enumerate(map(dataset.boxes, range(len(dataset))))
    ]


def test_metrics_are_pycocotools(tmp_path, capsys):
    dataset = many(tmp_path)
    results = coco_results(near_truth(dataset, np.random.default_rng(2)), dataset)
    (tmp_path / "results.json").write_text(json.dumps(results))
    coco = COCO(str(dataset.annotation_file))
    expected = COCOeval(coco, coco.loadRes(str(tmp_path / "results.json")), "bbox")
    expected.evaluate()
    expected.accumulate()
    capsys.readouterr()
    expected.summarize()
    printed = capsys.readouterr().out
    scores = score_results(results, dataset)
    assert_allclose(list(scores.metrics.values()), expected.stats, rtol=0, atol=1e-12)
    assert tuple(scores.metrics) == METRICS
    assert 0.05 < scores.metrics["AP"] < 0.9
    assert scores.table == printed.rstrip()
    assert np.mean(list(scores.ap_by_class.values())) == pytest.approx(scores.metrics["AP"])
    assert tuple(scores.ap_by_class) == dataset.class_names
    assert capsys.readouterr().out == ""


def test_the_truth_scores_one(tmp_path):
    dataset = opened(tmp_path)
    scores = score_results(coco_results(truth(dataset), dataset), dataset)
    assert scores.metrics["AP"] == pytest.approx(1)
    # cat has a crowd only, which nobody must find
    assert scores.ap_by_class == pytest.approx({"person": 1, "cat": None, "toothbrush": 1})
    assert scores.metrics["AP_medium"] is None


def test_ap_of_a_class_is_of_that_class(tmp_path):
    dataset = opened(tmp_path)
    found = truth(dataset)
    found[0] = detections(found[0].boxes[:1], [1.0], [0])  # a toothbrush is missed
    scores = score_results(coco_results(found, dataset), dataset)
    assert scores.ap_by_class["person"] == pytest.approx(1)
    assert 0.4 < scores.ap_by_class["toothbrush"] < 0.6


ODD_BOXES = [
    annotation(1, 30, 90, [0, 0, 0, 0]),
    annotation(2, 30, 90, [-5, -5, 300, 300], area=800.0),
    annotation(3, 30, 90, [70, 5, 9, 9]),
    annotation(4, 30, 90, [float("nan"), 5, 9, 9]),
    annotation(5, 2, 17, [10, 5, 20, 10]),
    annotation(6, 2, 17, [10, 5, 20, 10]),
    annotation(7, 2, 17, [50, 5, 20, 10], iscrowd="true"),
]


@pytest.mark.parametrize("use_crowd", [True, False])
def test_the_boxes_that_are_trained_are_the_truth(tmp_path, use_crowd):
    file = write_coco(tmp_path, annotations=ODD_BOXES)
    dataset = CocoDetection(file, tmp_path / "images" / "train", use_crowd)
    assert dataset.box_counts().tolist() == [1, 0, 2 if use_crowd else 1]
    scores = score_results(coco_results(truth(dataset), dataset), dataset)
    assert scores.metrics["AP"] == pytest.approx(1)
    crowds = coco_evaluation([], dataset).cocoGt.dataset["annotations"]
    assert [row["iscrowd"] for row in crowds] == [0, 0, 1]
    assert [row["area"] for row in crowds] == [800, 1, 1]


def test_reference_scoring_takes_the_boxes_of_the_file(tmp_path):
    rows = [row for row in ODD_BOXES if row["id"] != 7]
    file = write_coco(tmp_path, annotations=rows)
    dataset = CocoDetection(file, tmp_path / "images" / "train", reference_truth=True)
    results = coco_results(truth(dataset), dataset)
    # pycocotools takes all of them but the one that is not a number.
    file.write_text(json.dumps(coco_content(annotations=[r for r in rows if r["id"] != 4])))
    coco = COCO(str(file))
    for row in coco.dataset["annotations"]:
        row.setdefault("iscrowd", 0)
    expected = COCOeval(coco, coco.loadRes([dict(row) for row in results]), "bbox")
    expected.evaluate()
    expected.accumulate()
    expected.summarize()
    scores = score_results(results, dataset)
    found = [-1 if value is None else value for value in scores.metrics.values()]
    assert_allclose(found, expected.stats, rtol=0, atol=1e-12)
    assert scores.metrics["AP"] < 0.4


def test_without_objects_the_table_has_no_numbers(tmp_path):
    dataset = opened(tmp_path, annotations=[])
    found = [detections([[0, 0, 5, 5]], [0.5], [0])] * 3
    scores = score_results(coco_results(found, dataset), dataset)
    assert set(scores.metrics.values()) == set(scores.ap_by_class.values()) == {None}
    lines = scores.table.splitlines()
    assert len(lines) == 12 and all(line.endswith("=     -") for line in lines)


@pytest.mark.parametrize("empty", ["no detection", "no annotation either"])
def test_nothing_found_scores_zero(tmp_path, empty):
    dataset = opened(tmp_path, **({} if empty == "no detection" else {"annotations": []}))
    results = coco_results([detections([], [], [])] * 3, dataset)
    assert results == []
    scores = score_results(results, dataset)
    assert scores.metrics["AP"] == (0 if empty == "no detection" else None)


def test_an_annotation_of_id_zero_can_be_found(tmp_path):
    dataset = opened(tmp_path, annotations=[annotation(0, 2, 90, [10, 5, 20, 10])])
    scores = score_results(coco_results(truth(dataset), dataset), dataset)
    assert scores.metrics["AP"] == pytest.approx(1)


def test_fields_that_coco_has_and_others_lack(tmp_path):
    record = {"image_id": 30, "category_id": 17, "bbox": [0, 0, 40, 30]}
    dataset = opened(tmp_path, annotations=[record, {**record, "bbox": [5, 20, 10, 10]}])
    scores = score_results(coco_results(truth(dataset), dataset), dataset)
    assert scores.metrics["AP"] == pytest.approx(1)
    assert scores.metrics["AP_small"] == pytest.approx(1)  # 10 x 10
    assert scores.metrics["AP_medium"] == pytest.approx(1)  # 40 x 30


def test_results_are_in_coco_format(tmp_path):
    dataset = opened(tmp_path)
    found = [
        detections([[1.25, 2, 11, 30]], [0.5], [2]),
        detections([], [], []),
        detections([[0, 0, 5, 5], [1, 1, 2, 3]], [0.75, 0.25], [0, 1]),
    ]
    assert coco_results(found, dataset) == [
        {"image_id": 30, "category_id": 90, "bbox": [1.25, 2, 9.75, 28], "score": 0.5},
        {"image_id": 2, "category_id": -4, "bbox": [0, 0, 5, 5], "score": 0.75},
        {"image_id": 2, "category_id": 17, "bbox": [1, 1, 1, 2], "score": 0.25},
    ]


def test_numbers_are_exact_or_the_references(tmp_path):
    dataset = opened(tmp_path)
    box = np.array([[10.123456, 20.005, 33.3333, 44.4449]], np.float32)
    found = [detections(box, [0.98765], [0]), *[detections([], [], [])] * 2]
    (exact,) = coco_results(found, dataset)
    x, y, width, height = exact["bbox"]
    assert [x, y, x + width, y + height] == box.astype(np.float64)[0].tolist()
    assert exact["score"] == float(np.float32(0.98765))
    (rounded,) = coco_results(found, dataset, reference_scoring=True)
    assert rounded["bbox"] == [10.12, 20.0, 23.21, 24.44]
    assert rounded["score"] == 0.99
    assert found[0].boxes.tolist() == box.tolist()
