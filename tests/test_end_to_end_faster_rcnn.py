"""Faster R-CNN through all scripts, on generated pictures."""

import json

import numpy as np
import pytest
import torch
from some_ranks import run_processes
from tiny_training import words, write_training

import demo
import evaluate
import train
from core import checkpoint, engine
from core.detectors import load_detector
from core.errors import UserError
from core.log import read_log

NAME = "FasterRCNN-tiny"
MODEL = {
    "channels": [[4], [8], [8], [8]],
    "batch_norm": True,
    "shorter_side": 64,
    "longer_side": 64,
    "anchor_scales": [2, 4],
    "anchor_ratios": [1],
    "rpn_samples": 8,  # few: another draw gives other losses
    "rpn_min_size": 2,
    "train_pre_nms": 60,
    "train_post_nms": 30,
    "pooled_size": 3,
    "head_channels": 16,
    "roi_samples": 8,
    "min_score": 0.01,
}


def write(root, model=None, **system):
    write_training(root, NAME, **system)
    file = root / "configs" / f"{NAME}.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "model": {**MODEL, **(model or {})}}))


def of(root, *more):
    return words(root, *more, name=NAME)


def losses(root):
    """(iteration, terms), and the same of the validations, from a run's log."""
    lines = read_log(root / "cache" / "nnet" / NAME / "log.jsonl")
    training = [(x["iteration"], x["terms"]) for x in lines if "loss" in x]
    return training, [(x["iteration"], x["validation"]) for x in lines if "validation" in x]


def weights(root):
    return checkpoint.read_weights(checkpoint.snapshot_path(root / "cache", NAME, 4))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of four steps."""
    root = tmp_path_factory.mktemp("whole")
    write(root)
    assert train.main(of(root)) == 0
    return root


def test_a_resumed_run_is_bit_for_bit_one_that_never_stopped(whole, tmp_path):
    """The draws of anchors and proposals go on where they were, whatever happened in between."""
    write(tmp_path)
    torch.manual_seed(1)
    assert train.main(of(tmp_path, "--set", "system.max_iter=2")) == 0
    torch.manual_seed(2)
    assert train.main(of(tmp_path, "--iter", "2")) == 0
    assert losses(tmp_path) == losses(whole)
    terms = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
    training, validations = losses(whole)
    assert len(training) == 4 and all(set(step) == terms for _, step in training)
    assert [(iteration, set(line["terms"])) for iteration, line in validations] == [
        (2, terms),
        (4, terms),
    ]
    mine, theirs = weights(tmp_path), weights(whole)
    assert all(torch.equal(mine[key], value) for key, value in theirs.items())


def test_validation_does_not_change_the_run(whole, tmp_path):
    write(tmp_path, val_iter=0)
    assert train.main(of(tmp_path)) == 0
    assert losses(tmp_path)[0] == losses(whole)[0]


def test_the_draws_follow_the_seed_and_matter(whole, tmp_path, monkeypatch):
    """The same weights and pictures and other random numbers: other losses."""
    write(tmp_path)
    assert train.main(of(tmp_path, "--set", "system.max_iter=2")) == 0
    monkeypatch.setattr(engine, "_seed", lambda *numbers: 99)
    assert train.main(of(tmp_path, "--iter", "2")) == 0
    assert losses(tmp_path)[0][:2] == losses(whole)[0][:2]
    assert losses(tmp_path)[0][2:] != losses(whole)[0][2:]


def test_the_draws_do_not_depend_on_the_number_of_processes(whole, tmp_path):
    """Which is in the last digits of the first steps; later ones grow them, in float32."""
    write(tmp_path)
    assert run_processes(2, train.main, of(tmp_path)) == [0, 0]
    for (_, mine), (_, theirs) in zip(losses(tmp_path)[0][:2], losses(whole)[0], strict=False):
        assert mine == pytest.approx(theirs, rel=1e-4)


def test_evaluate_and_draw(whole):
    assert evaluate.main(of(whole, "--debug")) == 0
    folder = whole / "results" / NAME / "4" / "validation"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["pictures"] == 3 and 0 <= metrics["AP"] <= 1
    assert len(list((folder / "debug").iterdir())) == 3
    assert json.loads((folder / "results.json").read_text())


def test_demo(whole, tmp_path):
    picture = str(next((whole / "data" / "shapes" / "images" / "val").iterdir()))
    snapshot = str(checkpoint.snapshot_path(whole / "cache", NAME, 4))
    out = str(tmp_path / "out")
    assert demo.main(of(whole, picture, "--snapshot", snapshot, "--out", out)) == 0
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_weights_alone_tell_their_number_of_classes(whole, tmp_path):
    """Their heads have a row more than that, for the background."""
    path = tmp_path / "alone.pkl"
    torch.save(weights(whole), path)
    detect = load_detector(of(whole)[0], path, "cpu")
    assert len(detect.class_names) == 6 and not detect.names_known
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3)).astype(np.uint8)
    known = load_detector(of(whole)[0], 4, "cpu")
    np.testing.assert_array_equal(detect.detections(image).boxes, known.detections(image).boxes)


def test_fine_tuning_to_other_classes_in_bfloat16(whole, tmp_path, caplog):
    write(tmp_path, precision="bfloat16")
    for file in (tmp_path / "data" / "shapes" / "annotations").iterdir():
        content = json.loads(file.read_text())
        content["categories"] = content["categories"][:2]
        kept = [row for row in content["annotations"] if row["category_id"] <= 2]
        file.write_text(json.dumps({**content, "annotations": kept}))
    caplog.set_level("INFO")
    given = str(checkpoint.snapshot_path(whole / "cache", NAME, 4))
    assert train.main(of(tmp_path, "--weights", given)) == 0
    assert "freshly initialised: roi_heads.box_predictor.cls_score.weight" in caplog.text
    own = weights(tmp_path)
    assert len(own["roi_heads.box_predictor.cls_score.bias"]) == 3
    assert len(own["roi_heads.box_predictor.bbox_pred.bias"]) == 12
    assert all(np.isfinite(list(terms.values())).all() for _, terms in losses(tmp_path)[0])
    detect = load_detector(of(tmp_path)[0], 4, "cpu")
    assert len(detect(np.zeros((70, 90, 3), np.uint8))) == 2


def test_imagenet_s_weights_are_needed_where_training_starts_and_only_there(whole, tmp_path):
    write(tmp_path, model={"backbone_weights": str(tmp_path / "vgg16.pth")})
    with pytest.raises(UserError, match=r"model\.backbone_weights: there is no file .*vgg16\.pth"):
        train.main(of(tmp_path))
    given = str(checkpoint.snapshot_path(whole / "cache", NAME, 4))
    assert train.main(of(tmp_path, "--weights", given)) == 0
    assert train.main(of(tmp_path, "--iter", "2")) == 0
    assert evaluate.main(of(tmp_path)) == 0
