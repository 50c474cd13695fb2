"""COCO files anywhere: which folder their images are in."""

import json
import unicodedata

import pytest

from core.data.formats.recognition import recognise
from tests.support import layouts
from tests.support.layouts import TRAIN, VAL


def test_the_same_names_in_folders_of_two_splits(tmp_path):
    for split in ("train", "valid", "backup"):
        layouts.write_images(tmp_path / split, TRAIN)
    for split in ("train", "valid"):
        layouts.write_coco_file(tmp_path / "annotations" / f"{split}.json", TRAIN)
    splits = recognise(tmp_path).splits
    assert {name: read().image_dir for name, read in splits.items()} == {
        "train": tmp_path / "train",
        "valid": tmp_path / "valid",
    }


@pytest.mark.parametrize("prefix", ["./", "images/", "", "./deep/images/"])
def test_paths_from_any_folder_on(tmp_path, prefix):
    layouts.write_images(tmp_path / "deep" / "images", TRAIN)
    layouts.write_coco_file(tmp_path / "labels.json", TRAIN, prefix)
    source = recognise(tmp_path).splits[""]()
    for image in source.records["images"]:
        assert (source.image_dir / image["file_name"]).is_file()


@pytest.mark.parametrize("prefix", ["C:\\data\\", "images\\", "/home/me/images/", "../../x/"])
def test_paths_of_another_machine(tmp_path, prefix):
    layouts.write_images(tmp_path / "images" / "one", TRAIN)
    layouts.write_images(tmp_path / "images" / "two", VAL)
    layouts.write_coco_file(tmp_path / "result.json", layouts.BOTH, prefix)
    source = recognise(tmp_path).splits[""]()
    assert source.notes == ("4 images found by the name alone, not in the folder that is given",)
    for image in source.records["images"]:
        assert (source.image_dir / image["file_name"]).is_file()


def test_a_name_of_several_images_is_not_guessed(tmp_path):
    layouts.write_images(tmp_path / "images" / "one", TRAIN)
    layouts.write_images(tmp_path / "images" / "two", {"a": TRAIN["a"]})
    layouts.write_coco_file(tmp_path / "result.json", TRAIN, "/home/me/")
    records = recognise(tmp_path).splits[""]().records
    names = [image["file_name"] for image in records["images"]]
    assert names == ["/home/me/a.jpg", "images/one/b.v2.jpg", "images/one/c.jpg"]


def test_names_in_unicodes_other_form(tmp_path):
    layouts.write_images(tmp_path / "a", {unicodedata.normalize("NFD", "ü"): TRAIN["a"]})
    layouts.write_coco_file(tmp_path / "b" / "x.json", {"ü": TRAIN["a"]})
    assert recognise(tmp_path).splits[""]().image_dir == tmp_path / "a"


def test_other_json_is_passed_over(tmp_path):
    layouts.cvat(tmp_path)
    (tmp_path / "results.json").write_text(json.dumps([{"image_id": 1, "bbox": [0, 0, 1, 1]}]))
    (tmp_path / "a.json").write_text(json.dumps({"shapes": [], "imagePath": "a.jpg"}))
    assert list(recognise(tmp_path).splits) == [""]
