"""CenterNet, Faster R-CNN and a pyramid through all scripts, on generated images."""

import json

import numpy as np
import pytest
import torch

import demo
import evaluate
import train
from core.checkpoint import snapshot as checkpoint
from core.config.errors import UserError
from core.models.loading import load_detector
from tests.support.tiny_models import LITE, TINY, losses, of, snapshot, write
from tests.support.tiny_training import keep_classes

CENTER_TERMS = {"heatmap", "size", "offset"}
TERMS = {
    LITE: {"heatmap", "shift", "offset", "box", "center"},
    "CenterNet-tiny": CENTER_TERMS,
    "CenterNet-resnet18": CENTER_TERMS,
    "FasterRCNN-tiny": {
        *("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"),
    },
}
# Lengths of the heads' biases for two classes; Faster R-CNN has the background beside them.
TWO_CLASSES = {
    LITE: {f"{head}_heats.0.1.bias": 2 for head in ("tl", "br", "center")},
    "CenterNet-tiny": {"hm.0.1.bias": 2, "hm.1.1.bias": 2},
    "CenterNet-resnet18": {"hm.0.1.bias": 2},
    "FasterRCNN-tiny": {
        "roi_heads.box_predictor.cls_score.bias": 3,
        "roi_heads.box_predictor.bbox_pred.bias": 12,
    },
}


@pytest.fixture(scope="module", params=sorted(TINY))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def whole(name, tmp_path_factory):
    """A run of four steps."""
    root = tmp_path_factory.mktemp("whole")
    write(root, name)
    assert train.main(of(root, name)) == 0
    return root


def noise(height, width):
    image = np.random.default_rng(1).integers(0, 256, (height, width, 3))
    return image.astype(np.uint8)


def test_a_resumed_run_is_bit_for_bit_one_that_never_stopped(name, whole, tmp_path):
    """Random numbers that are drawn go on where they were, whatever happened in between."""
    write(tmp_path, name)
    torch.manual_seed(1)
    assert train.main(of(tmp_path, name, "--set", "system.max_iter=2")) == 0
    torch.manual_seed(2)
    assert train.main(of(tmp_path, name, "--iter", "2")) == 0
    training, validations = losses(whole, name)
    assert losses(tmp_path, name) == (training, validations)
    assert [iteration for iteration, _ in training] == [1, 2, 3, 4]
    assert [iteration for iteration, _ in validations] == [2, 4]
    assert all(set(terms) == TERMS[name] for _, terms in training + validations)
    mine, theirs = (checkpoint.read_weights(snapshot(root, name)) for root in (tmp_path, whole))
    assert set(mine) == set(theirs)
    assert all(torch.equal(mine[key], value) for key, value in theirs.items())


def test_evaluate_draws(name, whole):
    assert evaluate.main(of(whole, name, "--debug")) == 0
    folder = whole / "results" / name / "4" / "validation"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["images"] == 3 and 0 <= metrics["AP"] <= 1
    assert len(list((folder / "debug").iterdir())) == 3
    results = json.loads((folder / "results.json").read_text())
    assert all(len(row["bbox"]) == 4 for row in results)
    assert results or name in ("CenterNet-resnet18", LITE)  # four steps find nothing


def test_demo(name, whole, tmp_path):
    image = str(next((whole / "data" / "shapes" / "images" / "val").iterdir()))
    out = ("--out", str(tmp_path / "out"))
    weights = ("--snapshot", str(snapshot(whole, name)))
    assert demo.main(of(whole, name, image, *weights, *out)) == 0
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_pictures_of_any_size_repeat(name, whole):
    detect = load_detector(of(whole, name)[0], 4, "cpu")
    for size in ((1, 1), (1, 4000), (30, 20), (300, 400)):
        first, second = (detect.detections(noise(*size)) for _ in range(2))
        np.testing.assert_array_equal(first.boxes, second.boxes)
        assert np.isfinite(first.boxes).all()


def test_the_ways_of_detection(name, whole):
    """Several scales, sizes kept or fixed, mirror images: CenterNet's; others refuse them."""
    for scales, resolution in (("[1]", "keep"), ("[0.5, 1, 1.5]", "keep"), ("[0.5, 1]", "fix")):
        overrides = [f"db.test_scales={scales}", f"db.test_resolution={resolution}"]
        overrides.append("db.test_flipped=true")
        if name == LITE:  # corners are tested at their own size, whatever it is
            overrides = [text for text in overrides if "resolution" not in text]
        if name == "FasterRCNN-tiny" and scales != "[1]":
            with pytest.raises(UserError, match=r"FasterRCNN has no use for db\.test_scales"):
                load_detector(of(whole, name)[0], 4, "cpu", overrides=overrides)
            continue
        detect = load_detector(of(whole, name)[0], 4, "cpu", overrides=overrides)
        for size in ((1, 1), (90, 70)):
            found = detect(noise(*size))
            assert set(found) == set(detect.class_names)
            assert all(rows.shape[1] == 5 and np.isfinite(rows).all() for rows in found.values())


def test_weights_alone_tell_their_number_of_classes(name, whole, tmp_path):
    """As a bare dictionary, and as CenterNet's authors save it."""
    weights, path = checkpoint.read_weights(snapshot(whole, name)), tmp_path / "alone.pth"
    known, image = load_detector(of(whole, name)[0], 4, "cpu"), noise(70, 90)
    for content in (weights, {"epoch": 7, "state_dict": weights}):
        torch.save(content, path)
        detect = load_detector(of(whole, name)[0], path, "cpu")
        assert len(detect.class_names) == 6 and not detect.names_known
        found, expected = detect.detections(image), known.detections(image)
        np.testing.assert_array_equal(found.boxes, expected.boxes)


def test_fine_tuning_to_other_classes_in_bfloat16(name, whole, tmp_path, caplog):
    write(tmp_path, name, precision="bfloat16", max_iter=1)
    keep_classes(tmp_path, 2)
    caplog.set_level("INFO")
    assert train.main(of(tmp_path, name, "--weights", str(snapshot(whole, name)))) == 0
    own = checkpoint.read_weights(snapshot(tmp_path, name, 1))
    assert "freshly initialised: " in caplog.text
    for key, length in TWO_CLASSES[name].items():
        assert len(own[key]) == length
        assert key.replace(".bias", ".weight") in caplog.text
    ((_, terms),) = losses(tmp_path, name)[0]
    assert np.isfinite(list(terms.values())).all()
    detect = load_detector(of(tmp_path, name)[0], 1, "cpu")
    assert len(detect(np.zeros((70, 90, 3), np.uint8)).by_class()) == 2
