"""Training where there is little or nothing to learn from, or to evaluate with."""

import json
import logging

import pytest

import train
from core.config.errors import UserError
from core.train.log import FILE_NAME, read_log
from tests.support.tiny_training import NAME, argv, write_training


def keep(root, split, images, boxes):
    """Leaves the first images of a split and the first boxes on them."""
    file = root / "data" / "shapes" / "annotations" / f"instances_{split}.json"
    content = json.loads(file.read_text())
    content["images"] = content["images"][:images]
    kept = {image["id"] for image in content["images"]}
    rows = [row for row in content["annotations"] if row["image_id"] in kept]
    file.write_text(json.dumps({**content, "annotations": rows[:boxes]}))


def test_without_boxes_nothing_is_trained(tmp_path):
    write_training(tmp_path)
    keep(tmp_path, "train", 7, 0)
    with pytest.raises(
        UserError, match=r"instances_train.json has no boxes to train on; is 'train"
    ):
        train.main(argv(tmp_path))
    assert not list(tmp_path.glob("cache/nnet/*/*.pkl"))


def test_one_image_and_no_box_to_evaluate_with(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    settings = {"eval_iter": 1, "patience": 1, "max_iter": 2, "val_iter": 1}
    write_training(tmp_path, **settings, batch_size=2, chunk_sizes=None)
    keep(tmp_path, "train", 1, 1)
    keep(tmp_path, "val", 2, 0)
    assert train.main(argv(tmp_path)) == 0
    lines = read_log(tmp_path / "cache" / "nnet" / NAME / FILE_NAME)
    assert [line["iteration"] for line in lines if "loss" in line] == [1, 2]  # patience goes on
    assert {line["evaluation"]["AP"] for line in lines if "evaluation" in line} == {None}
    assert "step 2: AP -, AP50 -, AP75 -; 2 images in" in caplog.text
