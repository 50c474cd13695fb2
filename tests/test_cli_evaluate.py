"""evaluate.py from the command line to files and exit codes."""

import dataclasses
import json
import logging
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import evaluate
from core.config.errors import UserError
from core.config.loading import load_config
from core.data.coco import CocoDetection
from core.evaluation import command
from core.evaluation.coco import METRICS
from core.evaluation.evaluator import evaluate as evaluate_detector
from core.evaluation.report import write_results
from core.structures import Detections
from tests.support.dbs_files import write_coco
from tests.support.engine_stand_in import stand_in
from tests.support.tiny_detector import write_config, write_snapshot

NAMES = ("person", "cat", "toothbrush")


@pytest.fixture
def root(tmp_path):
    """A config, a snapshot of iteration 20, and data with a split for each word."""
    write_config(tmp_path)
    write_snapshot(tmp_path, 20, NAMES)
    for split in ("train", "val"):
        write_coco(tmp_path / "data" / "coco", split)
    write_coco(tmp_path / "data" / "coco", "test", "image_info", annotations=None)
    return tmp_path


def argv(root, *more, name="CornerNet-tiny"):
    return [str(root / "configs" / f"{name}.json"), "--device", "cpu", *more]


def test_a_report_beside_the_metrics(root, caplog):
    caplog.set_level(logging.INFO)
    assert evaluate.main(argv(root, "--report")) == 0
    folder = root / "results" / "CornerNet-tiny" / "20" / "validation"
    names = sorted(file.name for file in folder.iterdir())
    assert names == ["metrics.json", "report.html", "results.json"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "CornerNet-tiny on the validation split" in page and "toothbrush" in page
    assert "&#34;top_k&#34;: 20" in page  # the config


def test_a_report_needs_annotations(root, monkeypatch):
    monkeypatch.setattr(command, "evaluate", None)  # refused before anything is detected
    message = "image_info_test.json has none; choose another --split, or leave out --report"
    with pytest.raises(UserError, match=message):
        evaluate.main(argv(root, "--report", "--split", "testing"))


def test_evaluation_writes_results_and_metrics(root, caplog):
    caplog.set_level(logging.INFO)
    assert evaluate.main(argv(root, "--workers", "2")) == 0
    folder = root / "results" / "CornerNet-tiny" / "20" / "validation"
    assert sorted(file.name for file in folder.iterdir()) == ["metrics.json", "results.json"]
    results = json.loads((folder / "results.json").read_text())
    assert {row["image_id"] for row in results} <= {30, 7, 2}
    assert {row["category_id"] for row in results} <= {90, -4, 17}
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(METRICS) <= set(metrics)
    assert set(metrics["AP_by_class"]) == set(NAMES)
    assert metrics["images_per_second"] > 0
    assert (metrics["config"], metrics["iteration"], metrics["images"]) == (
        "CornerNet-tiny",
        20,
        3,
    )
    assert caplog.text.count("Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all") == 1
    assert "toothbrush" in caplog.text


def test_the_truth_as_detections_scores_one(root):
    data = root / "data" / "coco"
    dataset = CocoDetection(data / "annotations" / "instances_val.json", data / "images" / "val")
    images = [cv2.imread(str(dataset.image_path(index))) for index in range(3)]

    def detect(image, trace=None):
        (index,) = (n for n in range(3) if np.array_equal(images[n], image))
        boxes, labels = dataset.boxes(index), dataset.labels(index)
        return Detections(boxes, np.linspace(1, 0.5, len(boxes)).astype(np.float32), labels)
        yield  # no request

    detector = dataclasses.replace(stand_in(), infer=detect)
    metrics = evaluate_detector(detector, dataset, load_config(argv(root)[0]))
    assert metrics.scores.metrics["AP"] == pytest.approx(1)
    write_results(metrics, dataset, root / "out", {"config": "x"})
    content = json.loads((root / "out" / "metrics.json").read_text())
    assert content["AP"] == metrics.scores.metrics["AP"]
    assert (content["config"], content["images"]) == ("x", 3)


def test_debug_draws_detections_beside_the_truth(root):
    evaluate.main(argv(root, "--debug", "--split", "training"))
    folder = root / "results" / "CornerNet-tiny" / "20" / "training" / "debug"
    drawings = sorted(folder.iterdir())
    assert [file.name for file in drawings] == [
        "00000_thirty.jpg",
        "00001_seven.jpg",
        "00002_zwei-ü.jpg",
    ]
    height, width = cv2.imdecode(np.fromfile(drawings[0], np.uint8), cv2.IMREAD_COLOR).shape[:2]
    assert width > 2 * 480 and height > 320


def test_a_split_without_annotations(root, caplog):
    caplog.set_level(logging.INFO)
    assert evaluate.main(argv(root, "--split", "testing")) == 0
    folder = root / "results" / "CornerNet-tiny" / "20" / "testing"
    assert [file.name for file in folder.iterdir()] == ["results.json"]
    assert "has no annotations" in caplog.text


def test_suffix_snapshot_and_reference_scoring(root):
    write_config(root, "CornerNet-tiny-multi_scale", test_scales=[0.5, 1], merge_bbox=True)
    more = ("--suffix", "multi_scale", "--reference-scoring", "--set", "db.max_per_image=4")
    assert evaluate.main(argv(root, *more)) == 0
    folder = root / "results" / "CornerNet-tiny-multi_scale" / "20" / "validation"
    results = json.loads((folder / "results.json").read_text())
    assert results
    numbers = [number for row in results for number in (*row["bbox"], row["score"])]
    assert all(number == round(number, 2) for number in numbers)
    assert json.loads((folder / "metrics.json").read_text())["reference_scoring"] is True

    path = root / "mine.pkl"
    path.write_bytes((root / "cache/nnet/CornerNet-tiny/CornerNet-tiny_20.pkl").read_bytes())
    assert evaluate.main(argv(root, "--snapshot", str(path))) == 0
    assert (root / "results" / "CornerNet-tiny" / "mine" / "validation").is_dir()


@pytest.mark.parametrize("iteration", [20, 30])
def test_testiter(root, iteration):
    write_snapshot(root, 30, NAMES)
    assert evaluate.main(argv(root, "--testiter", str(iteration))) == 0
    assert (root / "results" / "CornerNet-tiny" / str(iteration)).is_dir()


def test_mistakes_have_one_line(root):
    def message(*more, name="CornerNet-tiny"):
        with pytest.raises(UserError) as error:
            evaluate.main(argv(root, *more, name=name))
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "there is no config 'CornerNet-tinny'" in message(name="CornerNet-tinny")
    assert "did you mean 'CornerNet-tiny'" in message(name="CornerNet-tinny")
    assert "CornerNet-tiny-x" in message("--suffix", "x")
    assert "CornerNet-tiny_77.pkl" in message("--testiter", "77")
    assert "did you mean 'top_k'" in message("--set", "db.topk=50")
    assert "no folder" in message("--set", "system.dataset_dir=elsewhere")
    assert "db.categories says 80" in message("--set", "db.categories=80")

    write_snapshot(root, 40, ("a", "b"))
    assert "detects 2 classes and" in message("--testiter", "40")
    write_snapshot(root, 50, ("person", "toothbrush", "cat"))
    assert "'toothbrush' for 'cat'" in message("--testiter", "50")

    (root / "data/coco/images/val/sub/seven.jpg").write_bytes(b"no image")
    assert "seven.jpg cannot be decoded" in message("--testiter", "20")
    (root / "data/coco/images/val/sub/seven.jpg").unlink()
    assert "sub/seven.jpg" in message("--testiter", "20")
    assert not (root / "results").exists()


def test_exit_codes(root, monkeypatch, capfd):
    script = str(Path(evaluate.__file__))
    monkeypatch.setattr(sys, "argv", [script, *argv(root, "--testiter", "77")])
    monkeypatch.setattr("logging.root.handlers", [])  # pytest's
    with pytest.raises(SystemExit) as end:
        runpy.run_path(script, run_name="__main__")
    assert end.value.code == 2
    printed = capfd.readouterr().err
    assert printed.startswith("error: there is no snapshot")
    assert len(printed.strip().splitlines()) == 1
