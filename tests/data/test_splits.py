"""Splits: the reference's names and folders, and messages about missing files."""

from functools import partial
from pathlib import Path

import pytest

from core.config.errors import UserError
from core.config.loading import Db, System
from core.data.formats.source import Layout, Source
from core.data.splits import choose_split, open_split
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


def test_usual_names_find_splits_with_years(tmp_path):
    for split in ("train2017", "val2017"):
        write_coco(tmp_path / "coco", split)
    for split in ("train", "val"):
        found = open_split(system(tmp_path), Db(), split)
        assert found.image_dir == tmp_path / "coco" / "images" / f"{split}2017"
    write_coco(tmp_path / "coco", "train2014")
    assert "holds instances_train2014.json, instances_train2017.json" in message(tmp_path)


def layout_of(*names):
    """A recognised folder with some splits of ten images, which notes the one that is read."""

    def source(name):
        images = [{"id": number, "file_name": f"{name}-{number}.jpg"} for number in range(10)]
        records = {"images": images, "annotations": [], "categories": []}
        return Source(records, Path("data"), Path("labels"))

    return Layout(Path("data"), "a folder", {name: partial(source, name) for name in names})


@pytest.mark.parametrize(
    ("names", "split", "found"),
    [
        (["train", "valid", "test"], "train", "train"),
        (["train", "valid", "test"], "val", "valid"),
        (["train", "valid", "test"], "minival", "valid"),
        (["train", "valid", "test"], "validation2014", "valid"),
        (["train", "valid", "test"], "testdev", "test"),
        (["train", "valid"], "testdev", "valid"),
        (["train", "test"], "val", "test"),
        (["trainval", "test"], "train", "trainval"),
        (["train", "val", "trainval"], "trainval", "trainval"),
        (["train", "val", "trainval"], "train", "train"),
        (["train", "val"], "trainval", "train"),
        (["validation", "val", "train"], "minival", "val"),
    ],
)
def test_names_of_splits_in_other_formats(names, split, found):
    records = choose_split(layout_of(*names), split, 0.2).records
    assert len(records["images"]) == 10
    assert records["images"][0]["file_name"] == f"{found}-0.jpg"


@pytest.mark.parametrize("names", [["train"], [""], ["trainval"]])
def test_images_without_validation_are_divided(names):
    layout = layout_of(*names)
    parts = [choose_split(layout, split, 0.3).records["images"] for split in ("train", "val")]
    assert sorted(image["id"] for part in parts for image in part) == list(range(10))
    assert all(parts)
    assert choose_split(layout, "testdev", 0.3).records["images"] == parts[1]


@pytest.mark.parametrize(
    ("names", "split"), [(["train", "val"], "mine"), (["val"], "train"), ([""], "mine")]
)
def test_a_split_that_a_folder_does_not_have(names, split):
    there = ", ".join(names) if names[0] else "none"
    with pytest.raises(
        UserError, match=f"data, a folder, has no split '{split}'; its splits: {there}"
    ):
        choose_split(layout_of(*names), split, 0.2)


def test_a_folder_of_no_known_format(tmp_path):
    (tmp_path / "coco" / "photos").mkdir(parents=True)
    text = message(tmp_path)
    assert f"no folder {tmp_path}/coco/annotations" in text and "holds photos" in text
    assert "in COCO's, YOLO's or Pascal VOC's format" in text
