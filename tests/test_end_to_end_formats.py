"""A folder of YOLO is trained on as it is, with a config that knows nothing of its format."""

import json

import train
from core.training.log import read_log
from tests.support.tiny_training import NAME, argv, write_config, write_training


def test_training_on_a_yolo_folder_equals_training_on_coco(tmp_path):
    """The generated images and boxes, written in both formats, give the same losses."""
    write_training(tmp_path, val_iter=0, max_iter=1)
    folder = tmp_path / "data" / "shapes"
    for split in ("train", "val"):
        file = folder / "annotations" / f"instances_{split}.json"
        content = json.loads(file.read_text())
        labels = tmp_path / "data" / "yolo" / "labels" / split
        labels.mkdir(parents=True)
        images = tmp_path / "data" / "yolo" / "images" / split
        images.mkdir(parents=True)
        for image in content["images"]:
            data = (folder / "images" / split / image["file_name"]).read_bytes()
            (images / image["file_name"]).write_bytes(data)
            lines = []
            for row in content["annotations"]:
                if row["image_id"] == image["id"]:
                    x, y, width, height = row["bbox"]
                    center = x + width / 2, y + height / 2
                    numbers = (f"{number / 64:.9f}" for number in (*center, width, height))
                    lines.append(" ".join([str(row["category_id"] - 1), *numbers]))
            name = image["file_name"].replace(".jpg", ".txt")
            (labels / name).write_text("\n".join(lines))
    names = [category["name"] for category in content["categories"]]
    (tmp_path / "data/yolo/data.yaml").write_text(
        f"train: images/train\nval: images/val\nnames: {names}\n"
    )
    write_config(tmp_path, f"{NAME}-yolo", dataset_dir="yolo", val_iter=0, max_iter=1)
    losses = []
    for name in (NAME, f"{NAME}-yolo"):
        assert train.main(argv(tmp_path, name=name)) == 0
        log = read_log(tmp_path / "cache" / "nnet" / name / "log.jsonl")
        losses.append([line["loss"] for line in log if "loss" in line])
    assert len(losses[0]) == 1 and losses[0] == losses[1]
