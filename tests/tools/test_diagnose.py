"""cornerkit diagnose from a snapshot or results to a table, files and a chart; what it refuses."""

import json
import logging
import sys

import cv2
import numpy as np
import pytest

import evaluate
from core import cli
from core.config.errors import UserError
from core.evaluation.errors import ALL_TYPES
from core.tools import diagnose, plot
from tests.support import tiny_models
from tests.support.dbs_files import write_coco
from tests.support.tiny_detector import write_config, write_snapshot
from train import main as train

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
    return [str(root / "configs" / f"{name}.json"), "--device", "cpu", *map(str, more)]


def folder_of(root, split="validation"):
    return root / "results" / "CornerNet-tiny" / "20" / split


def content(folder):
    return json.loads((folder / "diagnosis.json").read_text())


def pixels(file, color):
    red, green, blue = bytes.fromhex(color[1:])
    return int((cv2.imread(str(file)) == (blue, green, red)).all(axis=-1).sum())


def test_a_detector_of_corners(root, caplog):
    caplog.set_level(logging.INFO)
    assert cli.main(["diagnose", *argv(root, "--by-class")]) == 0
    folder = folder_of(root)
    assert sorted(file.name for file in folder.iterdir()) == ["diagnosis.json", "diagnosis.png"]
    found = content(folder)
    assert (found["config"], found["iteration"], found["images"]) == ("CornerNet-tiny", 20, 3)
    assert set(found["AP50_costs"]) == set(found["counts"]) == set(ALL_TYPES)
    assert found["counts"]["false_positive"] > 10 and found["objects"] == 3
    assert set(found["oracles"]) == {"pairs", "offsets", "both"}
    assert found["oracles"]["both"]["AP50"] >= found["oracles"]["pairs"]["AP50"]
    assert set(found["by_class"]) == set(NAMES)
    assert found["by_class"]["cat"]["AP50"] is None  # a crowd only
    for words in ("imprecise box ", "all false negatives ", "paired and placed ", "toothbrush "):
        assert words in caplog.text
    assert (
        f"{found['counts']['background']:>6}   {found['AP50_costs']['background']:.3f}"
        in caplog.text
    )
    height, width = cv2.imread(str(folder / "diagnosis.png")).shape[:2]
    assert width == 1200 and height == 340
    assert pixels(folder / "diagnosis.png", plot.COLORS[4]) > 20  # oracles


def test_results_of_an_evaluation(root, caplog):
    """The same errors as with the network, which is not needed for them."""
    caplog.set_level(logging.INFO)
    cli.main(["diagnose", *argv(root)])
    with_network = content(folder_of(root))
    evaluate.main(argv(root))
    metrics = json.loads((folder_of(root) / "metrics.json").read_text())
    for file in (root / "cache" / "nnet" / "CornerNet-tiny").iterdir():
        file.unlink()
    results = folder_of(root) / "results.json"
    caplog.clear()
    assert diagnose.main(argv(root, "--results", results)) == 0
    found = content(folder_of(root))
    assert found["oracles"] is None and found["results"] == str(results)
    for key in ("AP50_costs", "counts", "by_class", "AP", "AP50"):
        assert found[key] == with_network[key]
    assert [found[key] for key in ("AP", "AP50", "AP75")] == [
        metrics[key] for key in ("AP", "AP50", "AP75")
    ]
    assert "paired and placed" not in caplog.text
    assert cv2.imread(str(folder_of(root) / "diagnosis.png")).shape[1] == 600


def test_bars_are_as_long_as_what_they_stand_for(root):
    """Nothing was found: only missed objects cost anything."""
    results = root / "results.json"
    results.write_text("[]")
    assert diagnose.main(argv(root, "--results", results, "--split", "training")) == 0
    found = content(root)
    assert found["split"] == "training"
    assert (found["AP"], found["AP50_costs"]["missed"], found["counts"]["missed"]) == (0, 1, 3)
    image = cv2.imread(str(root / "diagnosis.png"))
    for color in (plot.COLORS[0], plot.COLORS[5]):
        red, green, blue = bytes.fromhex(color[1:])
        rows, columns = np.nonzero((image == (blue, green, red)).all(axis=-1))
        assert len(rows) > 2000 and columns.max() - columns.min() > 200
        assert rows.max() - rows.min() < 30  # one bar of each colour


def test_other_detectors_have_no_oracles(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    tiny_models.write(tmp_path, "CenterNet-tiny", max_iter=1, stepsize=1, snapshot=1, val_iter=0)
    train(tiny_models.of(tmp_path, "CenterNet-tiny"))
    assert diagnose.main(tiny_models.of(tmp_path, "CenterNet-tiny")) == 0
    found = content(tmp_path / "results" / "CenterNet-tiny" / "1" / "validation")
    assert found["oracles"] is None
    assert "no oracles" in caplog.text


def test_without_matplotlib_there_is_no_chart(root, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert diagnose.main(argv(root)) == 0
    assert [file.name for file in folder_of(root).iterdir()] == ["diagnosis.json"]
    assert 'pip install "cornerkit[plot]"' in caplog.text


def test_mistakes_have_one_line(root):
    def message(*more, name="CornerNet-tiny"):
        with pytest.raises(UserError) as error:
            diagnose.main(argv(root, *more, name=name))
        assert "\n" not in str(error.value)
        return str(error.value)

    def of_results(rows):
        file.write_text(rows if isinstance(rows, str) else json.dumps(rows))
        return message("--results", file)

    file = root / "mine.json"
    row = {"image_id": 30, "category_id": 90, "bbox": [0, 0, 9, 9], "score": 0.5}
    assert "has no annotations" in message("--split", "testing")
    assert "CornerNet-tiny_77.pkl" in message("--testiter", "77")
    assert "cannot be read" in message("--results", root / "gone.json")
    assert "leave out --testiter" in message("--results", file, "--testiter", "20")
    assert "is not JSON" in of_results("[")
    assert "does not hold a list" in of_results({"images": []})
    for key, bad in (("bbox", [0, 0, 9]), ("bbox", [0, 0, 9, None]), ("score", float("nan"))):
        assert "detection 1 must have an image_id" in of_results([row, {**row, key: bad}])
    assert "detection 0 must have" in of_results([{"image_id": 30}])
    assert "image_id 31, which" in of_results([{**row, "image_id": 31}])
    assert "category_id 1, which" in of_results([{**row, "category_id": 1}])
    write_snapshot(root, 40, ("a", "b"))
    assert "detects 2 classes and" in message("--testiter", "40")
    assert not (root / "results").exists() and not (root / "diagnosis.json").exists()


def test_an_image_that_fails_ends_with_code_1(root, monkeypatch, caplog):
    def fail(*arguments, **settings):
        raise RuntimeError("no memory")

    monkeypatch.setattr("core.evaluation.oracles.best_corners", fail)
    assert diagnose.main(argv(root)) == 1
    assert "thirty.jpg: RuntimeError: no memory" in caplog.text
