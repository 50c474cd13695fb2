"""CornerNet-Saccade through all scripts, on generated images larger than its views."""

import json

import cv2
import numpy as np
import pytest
import torch

import demo
import evaluate
import train
from core.checkpoint import snapshot as checkpoint
from core.checkpoint.run_directory import RunDirectory
from core.evaluation.draw import draw_saccades
from core.models.loading import load_detector
from core.training.log import read_log
from tests.support.tiny_training import argv, keep_classes, write_training

NAME = "CornerNet_Saccade-tiny"
DB = {
    "att_ranges": [[16, 64], [0, 16]],
    "att_scales": [[1, 2]],
    "att_nms_ks": [3, 3],
    "att_thresholds": [0.05],  # four steps do not make attention certain
    "init_sizes": [40, 63],
    "min_scale": 6,
    "att_max_crops": 4,
}


def write(root, **system):
    write_training(root, NAME, **system)
    file = root / "configs" / f"{NAME}.json"
    content = json.loads(file.read_text())
    content["db"] |= DB
    content["model"] |= {"channels": [8, 8, 8], "blocks": [1, 1, 1]}
    file.write_text(json.dumps(content))


def of(root, *more):
    return argv(root, *more, name=NAME)


def losses(root):
    lines = read_log(root / "cache" / "nnet" / NAME / "log.jsonl")
    return [(x["iteration"], x["terms"]) for x in lines if "loss" in x]


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
    terms = {"heatmap", "attention", "pull", "push", "offset"}
    assert all(set(step) == terms for _, step in losses(whole))


def test_evaluate_draws_crops_and_attention(whole):
    assert evaluate.main(of(whole, "--debug")) == 0
    folder = whole / "results" / NAME / "4" / "validation"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["images"] == 3 and 0 <= metrics["AP"] <= 1
    drawings = sorted(path.name for path in (folder / "debug").iterdir())
    assert len(drawings) == 6
    assert [name.endswith("_saccades.jpg") for name in drawings] == [False, True] * 3
    drawn = cv2.imread(str(folder / "debug" / drawings[1]))
    assert drawn.shape[1] > 3 * 64  # crops, and two attention maps


def test_first_pass_only(whole):
    detect = load_detector(of(whole)[0], 4, "cpu", overrides=["db.att_max_crops=0"])
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3)).astype(np.uint8)
    assert set(detect(image)) == set(detect.class_names)


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (30, 20), (300, 400)])
def test_pictures_of_any_size_repeat(whole, size):
    detect = load_detector(of(whole)[0], 4, "cpu")
    image = np.random.default_rng(1).integers(0, 256, (*size, 3)).astype(np.uint8)
    first, second = detect.detections(image), detect.detections(image)
    np.testing.assert_array_equal(first.boxes, second.boxes)
    assert np.isfinite(first.boxes).all()
    trace = []
    third = detect.detections(image, trace)
    np.testing.assert_array_equal(first.boxes, third.boxes)
    assert draw_saccades(image, trace).dtype == np.uint8


def test_demo(whole, tmp_path):
    image = str(next((whole / "data" / "shapes" / "images" / "val").iterdir()))
    snapshot = str(RunDirectory(whole / "cache", NAME).snapshot(4))
    out = str(tmp_path / "out")
    assert demo.main(of(whole, image, "--snapshot", snapshot, "--out", out)) == 0
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_fine_tuning_to_other_classes_in_bfloat16(whole, tmp_path, caplog):
    write(tmp_path, precision="bfloat16")
    keep_classes(tmp_path, 2)
    caplog.set_level("INFO")
    weights = str(RunDirectory(whole / "cache", NAME).snapshot(4))
    assert train.main(of(tmp_path, "--weights", weights)) == 0
    assert "freshly initialised: br_heats.0.1.bias" in caplog.text or "tl_heats.0.1." in caplog.text
    own = checkpoint.read_weights(RunDirectory(tmp_path / "cache", NAME).snapshot(4))
    heads = [value for key, value in own.items() if "_heats." in key and key.endswith("1.bias")]
    assert heads and all(len(value) == 2 for value in heads)
    assert all(np.isfinite(list(terms.values())).all() for _, terms in losses(tmp_path))
    detect = load_detector(of(tmp_path)[0], 4, "cpu")
    assert len(detect(np.zeros((70, 90, 3), np.uint8)).by_class()) == 2
    assert all(value.dtype in (torch.float32, torch.int64) for value in own.values())
