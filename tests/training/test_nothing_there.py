"""Datasets with little or nothing in them, from train.py and evaluate.py to their files."""

import json
import logging

import pytest

import evaluate
import train
from core.checkpoint.run_directory import RunDirectory
from core.config.errors import UserError
from core.training.log import FILE_NAME, read_log
from tests.support.tiny_training import NAME, argv, write_training

SETTINGS = {"eval_iter": 1, "val_iter": 1, "max_iter": 2, "snapshot": 2}


def empty(root, split):
    """Takes all boxes out of a split."""
    change(root, split, annotations=[])


def change(root, split, **tables):
    file = root / "data" / "shapes" / "annotations" / f"instances_{split}.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **tables}))


def keep_one_image(root, split):
    file = root / "data" / "shapes" / "annotations" / f"instances_{split}.json"
    content = json.loads(file.read_text())
    image = content["images"][0]
    rows = [row for row in content["annotations"] if row["image_id"] == image["id"]]
    change(root, split, images=[image], annotations=rows)


def log(root):
    return read_log(RunDirectory(root / "cache", NAME).path / FILE_NAME)


def test_no_boxes_to_train_on_end_a_run_before_its_first_step(tmp_path):
    write_training(tmp_path, **SETTINGS)
    empty(tmp_path, "train")
    with pytest.raises(UserError, match="has no boxes to train on") as error:
        train.main(argv(tmp_path))
    assert "\n" not in str(error.value)
    assert not RunDirectory(tmp_path / "cache", NAME).path.exists()


def test_no_boxes_to_evaluate_with_are_no_metrics(tmp_path, caplog):
    """Neither in the log, nor in the table, nor in metrics.json are they 0."""
    caplog.set_level(logging.INFO)
    write_training(tmp_path, **{**SETTINGS, "patience": 1})
    empty(tmp_path, "val")
    assert train.main(argv(tmp_path)) == 0
    records = [line for line in log(tmp_path) if "evaluation" in line]
    assert [line["iteration"] for line in records] == [1, 2]  # patience does not count them
    assert {value for line in records for value in line["evaluation"].values()} == {None}
    assert not any(line["best"] for line in records)
    assert sum("validation" in line for line in log(tmp_path)) == 2
    directory = RunDirectory(tmp_path / "cache", NAME)
    assert not directory.best.exists()
    assert any(line.startswith("step 2: AP -, AP50 -, AP75 -; 3 i") for line in caplog.messages)

    caplog.clear()
    assert evaluate.main(argv(tmp_path)) == 0
    folder = tmp_path / "results" / NAME / "2" / "validation"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["AP"] is None and metrics["AR_large"] is None
    assert set(metrics["AP_by_class"].values()) == {None}
    (table,) = [text for text in caplog.messages if "AP of each class" in text]
    assert table.count("=     -") == 12 and "0.000" not in table and "nan" not in table
    by_class = table.split("AP of each class\n")[1].split()
    assert by_class[1::2] == ["-"] * len(metrics["AP_by_class"])


def test_one_image_is_enough(tmp_path):
    """Also for a batch of three."""
    write_training(tmp_path, **SETTINGS)
    for split in ("train", "val"):
        keep_one_image(tmp_path, split)
    assert train.main(argv(tmp_path)) == 0
    assert evaluate.main(argv(tmp_path)) == 0
    epochs = [line["epoch"] for line in log(tmp_path) if "epoch" in line]
    assert epochs == [3.0, 6.0]
    folder = tmp_path / "results" / NAME / "2" / "validation"
    assert json.loads((folder / "metrics.json").read_text())["images"] == 1


def test_fewer_images_than_a_batch_are_repeated(tmp_path):
    write_training(tmp_path, **{**SETTINGS, "batch_size": 20, "chunk_sizes": None, "max_iter": 1})
    assert train.main(argv(tmp_path)) == 0
    assert [line["epoch"] for line in log(tmp_path) if "epoch" in line] == [2.8571]
