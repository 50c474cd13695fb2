"""Folders of Pascal VOC: what the XML says, and which image it belongs to."""

import pytest

from core.data.formats.recognition import recognise
from core.data.formats.voc_xml import read_xml
from tests.support import layouts
from tests.support.layouts import NAMES, TRAIN, VAL

SIZE, BOXES = TRAIN["a"]


def image_of(tmp_path, text):
    file = tmp_path / "a.xml"
    file.write_text(text)
    return read_xml(file)


@pytest.mark.parametrize(
    ("database", "first"),
    [("The VOC2007 Database", 1), ("The VOC2012 Database", 1), ("Unknown", 0), ("VOC", 0)],
)
def test_files_of_voc_itself_count_pixels_from_1(tmp_path, database, first):
    text = layouts.xml_of("a", SIZE, [(0, 3, 5, 20, 30)])
    (item,) = image_of(tmp_path, text.replace("Unknown", database)).objects
    assert item.xywh == (3 - first, 5 - first, 17 + first, 25 + first)


def test_parts_of_an_object_are_passed_over(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part><bndbox>"
    text = layouts.xml_of("a", SIZE, BOXES[:1]).replace("<bndbox>", part, 1)
    (item,) = image_of(tmp_path, text).objects
    assert (item.name, item.xywh) == ("ant", (3, 5, 17, 25))


@pytest.mark.parametrize("text", ["1", " true\n", "True"])
def test_difficult_objects_need_not_be_found(tmp_path, text):
    layouts.voc(tmp_path)
    file = tmp_path / "Annotations/a.xml"
    xml = file.read_text()
    file.write_text(xml.replace("<difficult>0<", f"<difficult>{text}<", 1))
    rows = recognise(tmp_path).splits["train"]().records["annotations"]
    assert [row["iscrowd"] for row in rows] == [1, 0, 0]


@pytest.mark.parametrize(
    "size", ["", "<height>0</height>", "<height>-4</height>", "<height>x</height>"]
)
def test_without_a_usable_size_the_image_has_it(tmp_path, size):
    layouts.voc(tmp_path)
    file = tmp_path / "Annotations/a.xml"
    file.write_text(file.read_text().replace("<height>40</height>", size))
    (image, *_) = recognise(tmp_path).splits["train"]().records["images"]
    assert (image["height"], image["width"]) == SIZE


def test_classes_are_those_of_all_splits(tmp_path):
    layouts.voc(tmp_path)
    for split in ("train", "val"):
        categories = recognise(tmp_path).splits[split]().records["categories"]
        assert [category["name"] for category in categories] == list(NAMES)


def test_the_same_names_in_other_splits(tmp_path):
    for split in ("train", "val"):
        boxes = TRAIN["a"] if split == "train" else (TRAIN["a"][0], [])
        folders = tmp_path / f"images/{split}", tmp_path / f"annotations/{split}"
        layouts.write_voc(*folders, {"a": boxes, **VAL})
    counts = [
        len(recognise(tmp_path).splits[split]().records["annotations"])
        for split in ("train", "val")
    ]
    assert counts == [4, 2]


def test_masks_are_no_images(tmp_path):
    layouts.voc(tmp_path)
    for folder in ("SegmentationClass", "SegmentationObject"):
        layouts.write_images(tmp_path / folder, {"a": TRAIN["a"]}, ".png")
    assert len(recognise(tmp_path).splits["train"]().records["images"]) == len(TRAIN)


def test_lists_may_name_files(tmp_path):
    layouts.voc(tmp_path)
    (tmp_path / "ImageSets/Main/train.txt").write_text("a.jpg\nb.v2\nb.v2\n")
    images = recognise(tmp_path).splits["train"]().records["images"]
    assert [image["file_name"] for image in images] == ["a.jpg", "b.v2.jpg"]
