"""From generated images to detections: train, resume, evaluate, detect, with the real network."""

import json
import logging
import sys

import cv2
import numpy as np
import pytest
import torch

import evaluate
import train
from core.checkpoint import snapshot as checkpoint
from core.checkpoint.run_directory import RunDirectory
from core.cli import exit_codes
from core.evaluation.coco import METRICS
from core.models.loading import load_detector
from core.training.log import read_log
from tests.support.tiny_training import NAME, argv, write_training


def losses(root):
    """(iteration, loss, terms), and the same of the validations, from a run's log."""
    lines = read_log(root / "cache" / "nnet" / NAME / "log.jsonl")
    training = [(x["iteration"], x["loss"], x["terms"]) for x in lines if "loss" in x]
    return training, [(x["iteration"], x["validation"]) for x in lines if "validation" in x]


def weights_and_state(root):
    """All tensors of the snapshot of step 4, the optimiser's too."""
    path = RunDirectory(root / "cache", NAME).snapshot(4)
    tensors = dict(checkpoint.read_weights(path))
    state = checkpoint.load_training_state(path)["optimizer"]["state"]
    for number, values in state.items():
        tensors |= {f"{number} {name}": value for name, value in values.items()}
    return tensors


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of four steps that nothing stopped."""
    root = tmp_path_factory.mktemp("whole")
    write_training(root)
    assert train.main(argv(root)) == 0
    return root


@pytest.mark.parametrize("workers", [(0, 0), (1, 0), (0, 2)], ids="{0[0]} then {0[1]}".format)
@pytest.mark.parametrize("algorithm", ["adam", "sgd"])
def test_a_resumed_run_is_bit_for_bit_a_run_that_never_stopped(whole, tmp_path, workers, algorithm):
    """Whatever the number of workers before and after."""
    optimizer = ("--set", f"system.opt_algo={algorithm}")
    write_training(tmp_path)
    if algorithm == "sgd":
        whole = tmp_path / "sgd"
        whole.mkdir()
        write_training(whole)
        train.main(argv(whole, *optimizer))
    first = (*optimizer, "--workers", str(workers[0]), "--set", "system.max_iter=2")
    assert train.main(argv(tmp_path, *first)) == 0
    second = (*optimizer, "--workers", str(workers[1]), "--iter", "2")
    torch.manual_seed(workers[1])  # what is not saved would show
    assert train.main(argv(tmp_path, *second)) == 0
    assert losses(tmp_path) == losses(whole)
    assert len(losses(whole)[0]) == 4
    same, other = weights_and_state(whole), weights_and_state(tmp_path)
    assert set(same) == set(other)
    for key, value in same.items():
        assert torch.equal(other[key], value), key


def test_the_learning_rate_decays_across_the_resume(whole):
    lines = read_log(whole / "cache" / "nnet" / NAME / "log.jsonl")
    rates = [line["learning_rate"] for line in lines if "loss" in line]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 1e-4])


def test_evaluate_the_snapshot(whole):
    assert evaluate.main(argv(whole, "--testiter", "4")) == 0
    folder = whole / "results" / NAME / "4" / "validation"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(METRICS) <= set(metrics)
    values = [metrics[name] for name in METRICS]
    assert all(0 <= value <= 1 for value in values if value is not None)
    assert (metrics["iteration"], metrics["images"]) == (4, 3)
    results = json.loads((folder / "results.json").read_text())
    assert all(len(row["bbox"]) == 4 for row in results)


def test_detect_with_the_snapshot(whole):
    detect = load_detector(argv(whole)[0], snapshot=4, device="cpu")
    image = next((whole / "data" / "shapes" / "images" / "val").iterdir())
    found = detect(cv2.imread(str(image)))
    assert set(found) == set(detect.class_names)
    assert all(boxes.dtype == np.float32 and boxes.shape[1] == 5 for boxes in found.values())
    # Four steps find nothing; the scores are below those of objects.
    assert all((boxes[:, 4] < 0.5).all() for boxes in found.values())


def test_unreadable_images_in_training(tmp_path, caplog, monkeypatch):
    """One of seven is more than 1 %: the run saves, stops and names it."""
    write_training(tmp_path, batch_size=2, chunk_sizes=None)
    image = sorted((tmp_path / "data" / "shapes" / "images" / "train").iterdir())[3]
    image.write_bytes(image.read_bytes()[:300])
    monkeypatch.setattr(sys, "argv", ["train.py", *argv(tmp_path)])
    caplog.set_level(logging.INFO)
    with pytest.raises(SystemExit) as caught, exit_codes():
        train.main(sys.argv[1:])
    assert caught.value.code == 2
    last = caplog.records[-1].getMessage()
    assert "1 of the 7 images" in last
    assert image.name in last
