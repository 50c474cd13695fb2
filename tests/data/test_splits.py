"""Splits: the reference's names and folders, and messages about missing files."""

import pytest

from core.config.errors import UserError
from core.config.loading import Db, System
from core.data.splits import open_split
from tests.support.dbs_files import write_coco


def system(tmp_path, dataset_dir="coco"):
    return System(data_dir=str(tmp_path), dataset_dir=dataset_dir)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("trainval", "trainval2014"),
        ("minival", "minival2014"),
        ("testdev", "testdev2017"),
        ("val", "val"),
        ("trainval2014", "trainval2014"),
    ],
)
def test_names_of_the_reference_and_any_other(tmp_path, name, folder):
    file = write_coco(tmp_path / "coco", folder)
    dataset = open_split(system(tmp_path), Db(), name)
    assert dataset.annotation_file == file
    assert dataset.image_path(0) == tmp_path / "coco" / "images" / folder / "thirty.jpg"
    assert dataset.image_path(0).is_file()


def test_the_config_chooses_folder_crowds_and_categories(tmp_path):
    write_coco(tmp_path / "mine", "a")
    wanted = Db(use_crowd=False, categories=3)
    dataset = open_split(system(tmp_path, "mine"), wanted, "a")
    assert dataset.box_counts().tolist() == [2, 0, 1]
    with pytest.raises(UserError, match=r"db\.categories says 80"):
        open_split(system(tmp_path, "mine"), Db(categories=80), "a")


def test_a_test_split_may_be_image_info(tmp_path):
    write_coco(tmp_path / "coco", "testdev2017", "image_info", annotations=None)
    assert not open_split(system(tmp_path), Db(), "testdev").has_annotations
    write_coco(tmp_path / "coco", "testdev2017")
    assert open_split(system(tmp_path), Db(), "testdev").has_annotations


def message(tmp_path, split="train", dataset_dir="coco"):
    with pytest.raises(UserError) as raised:
        open_split(system(tmp_path, dataset_dir), Db(), split)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_missing_folders_are_named_with_what_exists(tmp_path):
    write_coco(tmp_path / "coco")
    text = message(tmp_path, dataset_dir="cocoa")
    assert f"no folder {tmp_path}/cocoa/annotations" in text
    assert f"{tmp_path} holds coco" in text and "system.data_dir" in text
    (tmp_path / "coco" / "images" / "train").rename(tmp_path / "coco" / "images" / "train2017")
    text = message(tmp_path)
    assert f"no folder {tmp_path}/coco/images/train for" in text
    assert f"{tmp_path}/coco/images holds train2017" in text


def test_a_missing_annotation_file_is_named_with_what_exists(tmp_path):
    write_coco(tmp_path / "coco", "train2017")
    text = message(tmp_path, "val")
    assert f"{tmp_path}/coco/annotations/instances_val.json" in text
    assert "image_info_val.json" in text
    assert "holds instances_train2017.json" in text


def test_missing_images_are_counted_and_named(tmp_path):
    write_coco(tmp_path / "coco")
    (tmp_path / "coco" / "images" / "train" / "sub" / "seven.jpg").unlink()
    text = message(tmp_path)
    assert "1 of the 3 images that" in text and "missing: sub/seven.jpg" in text
    assert f"not in {tmp_path}/coco/images/train, which holds sub, thirty.jpg, zwei-ü.jpg" in text


def test_long_lists_are_shortened(tmp_path):
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 8, "width": 8} for i in range(40)]
    write_coco(tmp_path / "coco", images=images, annotations=[])
    for image in images:
        (tmp_path / "coco" / "images" / "train" / image["file_name"]).unlink()
    text = message(tmp_path)
    assert "which holds nothing" in text and "… (40 in all)" in text
    assert len(text) < 600
