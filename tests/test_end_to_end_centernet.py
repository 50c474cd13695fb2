"""CenterNet through all scripts, on generated pictures."""

import json

import numpy as np
import pytest
import torch
from tiny_training import words, write_training

import demo
import evaluate
import train
from core import checkpoint
from core.detectors import load_detector
from core.log import read_log

NAME = "CenterNet-tiny"


def write(root, **system):
    write_training(root, NAME, **system)
    file = root / "configs" / f"{NAME}.json"
    content = json.loads(file.read_text())
    content["db"]["test_resolution"] = "fix"
    del content["model"]["pooling_channels"]
    file.write_text(json.dumps(content))


def of(root, *more):
    return words(root, *more, name=NAME)


def losses(root):
    lines = read_log(root / "cache" / "nnet" / NAME / "log.jsonl")
    return [(x["iteration"], x["terms"]) for x in lines if "loss" in x]


def snapshot(root):
    return checkpoint.snapshot_path(root / "cache", NAME, 4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of four steps."""
    root = tmp_path_factory.mktemp("whole")
    write(root)
    assert train.main(of(root)) == 0
    return root


def test_a_resumed_run_is_one_that_never_stopped(whole, tmp_path):
    write(tmp_path)
    assert train.main(of(tmp_path, "--set", "system.max_iter=2")) == 0
    assert train.main(of(tmp_path, "--iter", "2")) == 0
    assert losses(tmp_path) == losses(whole)
    assert all(set(step) == {"heatmap", "size", "offset"} for _, step in losses(whole))
    weights = checkpoint.read_weights(snapshot(whole))
    other = checkpoint.read_weights(snapshot(tmp_path))
    assert all(torch.equal(other[key], value) for key, value in weights.items())


def test_evaluate_draws(whole):
    assert evaluate.main(of(whole, "--debug")) == 0
    folder = whole / "results" / NAME / "4" / "validation"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["pictures"] == 3 and 0 <= metrics["AP"] <= 1
    assert len(list((folder / "debug").iterdir())) == 3


@pytest.mark.parametrize("resolution", ["keep", "fix"])
@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (30, 20), (300, 400)])
def test_pictures_of_any_size_repeat(whole, size, resolution):
    overrides = [f"db.test_resolution={resolution}", "db.test_flipped=true"]
    detect = load_detector(of(whole)[0], 4, "cpu", overrides=overrides)
    image = np.random.default_rng(1).integers(0, 256, (*size, 3)).astype(np.uint8)
    first, second = detect.detections(image), detect.detections(image)
    np.testing.assert_array_equal(first.boxes, second.boxes)
    assert np.isfinite(first.boxes).all()


def test_several_scales(whole):
    overrides = ["db.test_scales=[0.5, 1, 1.5]", "db.test_resolution=keep"]
    detect = load_detector(of(whole)[0], 4, "cpu", overrides=overrides)
    found = detect(np.random.default_rng(0).integers(0, 256, (90, 70, 3)).astype(np.uint8))
    assert set(found) == set(detect.class_names)
    assert all(rows.shape[1] == 5 and np.isfinite(rows).all() for rows in found.values())


def test_weights_in_the_published_layout(whole, tmp_path):
    """The number of classes comes from the heads of a file that says nothing else."""
    path = tmp_path / "ctdet.pth"
    torch.save({"epoch": 7, "state_dict": checkpoint.read_weights(snapshot(whole))}, path)
    detect, own = (load_detector(of(whole)[0], file, "cpu") for file in (path, 4))
    assert len(detect.class_names) == len(own.class_names)
    image = np.random.default_rng(2).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    np.testing.assert_array_equal(detect.detections(image).boxes, own.detections(image).boxes)


def test_demo(whole, tmp_path):
    picture = str(next((whole / "data" / "shapes" / "images" / "val").iterdir()))
    words_ = of(whole, picture, "--snapshot", str(snapshot(whole)), "--out", str(tmp_path / "out"))
    assert demo.main(words_) == 0
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_fine_tuning_to_other_classes_in_bfloat16(whole, tmp_path, caplog):
    write(tmp_path, precision="bfloat16")
    for file in (tmp_path / "data" / "shapes" / "annotations").iterdir():
        content = json.loads(file.read_text())
        content["categories"] = content["categories"][:2]
        kept = [row for row in content["annotations"] if row["category_id"] <= 2]
        file.write_text(json.dumps({**content, "annotations": kept}))
    caplog.set_level("INFO")
    assert train.main(of(tmp_path, "--weights", str(snapshot(whole)))) == 0
    assert "freshly initialised: hm.0.1.weight" in caplog.text
    own = checkpoint.read_weights(snapshot(tmp_path))
    assert len(own["hm.0.1.bias"]) == 2
    assert all(np.isfinite(list(terms.values())).all() for _, terms in losses(tmp_path))
    detect = load_detector(of(tmp_path)[0], 4, "cpu")
    assert len(detect(np.zeros((70, 90, 3), np.uint8))) == 2
