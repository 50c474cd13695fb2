"""Bad files of datasets: one line that names file and place, or a count of what was repaired."""

import re

import pytest

from core.config.errors import UserError
from core.config.schema import Db, System
from core.data.splits import open_split
from tests.support import layouts
from tests.support.layouts import NAMES, TRAIN, VAL

YAML, LABEL, XML = "data.yaml", "train/labels/a.txt", "Annotations/a.xml"


def write(name, text):
    """Writes a text, or bytes, in place of a file."""

    def spoil(root):
        (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    return spoil


def change(name, old, new):
    """Replaces a part of a file."""

    def spoil(root):
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new))

    return spoil


def delete(name):
    return lambda root: (root / name).unlink()


def entries(**lines):
    """Writes a data.yaml with some entries replaced, or left out where None."""
    usual = {"train": "../train/images", "val": "../valid/images", "names": str(list(NAMES))}
    given = {key: text for key, text in {**usual, **lines}.items() if text is not None}
    return write(YAML, "".join(f"{key}: {text}\n" for key, text in given.items()))


def without_labels(root):
    for file in root.glob("*/labels/*.txt"):
        file.unlink()


def second_coco_file(root):
    (root / "train" / "copy.json").write_text((root / "train/_annotations.coco.json").read_text())


def two_names(root):
    layouts.write_coco_file(root / "a.json", TRAIN)
    layouts.write_coco_file(root / "b.json", VAL)


# name: layout, what is done to it, the error
ERRORS = {
    # YOLO: data.yaml
    "nc and names": (layouts.roboflow_yolo, entries(nc="4"), "nc is 4, and there are 3 names"),
    "a folder that is not there": (
        layouts.roboflow_yolo,
        entries(train="../images/train"),
        r"data.yaml: train: ../images/train: there is no such folder, also not from",
    ),
    "no validation folder": (
        layouts.roboflow_yolo,
        entries(val="val/images"),
        "val: val/images: there is no such folder",
    ),
    "a folder without images": (
        layouts.roboflow_yolo,
        entries(train="train/labels"),
        "train: train/labels: there are no images in it",
    ),
    "names as a text": (layouts.roboflow_yolo, entries(names="ant"), "names must be a list"),
    "a name without a number": (
        layouts.roboflow_yolo,
        entries(names="{ant: 0, bee: 1}"),
        "names: 'ant' is not a class number",
    ),
    "a name that is null": (
        layouts.roboflow_yolo,
        entries(names="[ant, null, cat]"),
        "class 1 has no name",
    ),
    "a name twice": (
        layouts.roboflow_yolo,
        entries(names="[ant, ant, cat]"),
        "two categories are named 'ant'",
    ),
    "broken YAML": (layouts.roboflow_yolo, entries(names="[ant, bee"), "data.yaml:3: .*no closing"),
    "a map as a folder": (
        layouts.roboflow_yolo,
        entries(train="{a: b}"),
        "train must be a folder or a list",
    ),
    "two descriptions": (
        layouts.roboflow_yolo,
        write("dataset.yaml", "names: [a]"),
        "data.yaml, dataset.yaml each describe",
    ),
    "a list with a missing image": (
        layouts.yolo_lists,
        write("train.txt", "./images/a.jpg\n./images/z.jpg\n"),
        "train.txt:2: there is no image",
    ),
    # YOLO: labels
    "a class out of range": (
        layouts.roboflow_yolo,
        write(LABEL, "0 .5 .5 .1 .1\n3 .5 .5 .1 .1\n"),
        r"labels/a.txt:2: class 3, and .*data.yaml names the classes 0 to 2",
    ),
    "a class below 0": (
        layouts.roboflow_yolo,
        write(LABEL, "-1 .5 .5 .1 .1"),
        "a.txt:1: class -1 must be a whole number",
    ),
    "half a class": (layouts.roboflow_yolo, write(LABEL, "0.5 .5 .5 .1 .1"), "class 0.5 must be"),
    "four numbers": (
        layouts.roboflow_yolo,
        write(LABEL, "0 .5 .5 .1"),
        "a.txt:1: there are 4 numbers; a line is class, centre x",
    ),
    "six numbers": (layouts.roboflow_yolo, write(LABEL, "0 .5 .5 .1 .1 .9"), "there are 6 numbers"),
    "eight numbers": (
        layouts.roboflow_yolo,
        write(LABEL, "0 .5 .5 .1 .1 .9 .9 .9"),
        "there are 8 numbers",
    ),
    "not a number": (layouts.roboflow_yolo, write(LABEL, "0 .5 .5 .1 NaN"), "finite numbers"),
    "infinite": (layouts.roboflow_yolo, write(LABEL, "0 .5 .5 .1 1e999"), "finite numbers"),
    "words": (
        layouts.roboflow_yolo,
        write(LABEL, "ant .5 .5 .1 .1"),
        "a.txt:1: 'ant' is not a num",
    ),
    "commas": (layouts.roboflow_yolo, write(LABEL, "0, .5, .5, .1, .1"), "'0,' is not a number"),
    "pixels": (
        layouts.roboflow_yolo,
        write(LABEL, "0 30 20 10 10"),
        "a.txt:1: 30 is not a fraction of the image",
    ),
    "a side below 0": (
        layouts.roboflow_yolo,
        write(LABEL, "0 .5 .5 -.1 .1"),
        "must not be below 0",
    ),
    "bytes as labels": (layouts.roboflow_yolo, write(LABEL, b"\xff\xfe0\0"), "not UTF-8 text"),
    "classes that disagree": (
        layouts.darknet,
        write("valid/_darknet.labels", "ant\nbee"),
        "_darknet.labels have other classes",
    ),
    "a huge class without names": (
        layouts.roboflow_yolo,
        lambda root: (entries(names=None)(root), write(LABEL, "123456 .5 .5 .1 .1")(root)),
        r"labels/a.txt: class 123456, and there are no names",
    ),
    # Pascal VOC
    "broken XML": (
        layouts.voc,
        change(XML, "</object>", ""),
        r"a.xml:\d+:\d+: not XML: mismatched",
    ),
    "cut XML": (layouts.voc, change(XML, "</annotation>", ""), "a.xml:5:1: not XML: no element"),
    "empty XML": (layouts.voc, write(XML, ""), "a.xml:1:1: not XML: no element found"),
    "no box": (
        layouts.voc,
        lambda root: [change(XML, f"{end}bndbox>", f"{end}box>")(root) for end in ("<", "</")],
        r"a.xml: object 1 \(ant\) has no <bndbox>",
    ),
    "no corner": (
        layouts.voc,
        change(XML, "<xmin>3</xmin>", ""),
        r"1 \(ant\) has no xmin; it must",
    ),
    "a corner that is no number": (
        layouts.voc,
        change(XML, "<xmin>3<", "<xmin>three<"),
        "has 'three' as xmin; it must be a number",
    ),
    "a corner that is NaN": (
        layouts.voc,
        change(XML, "<ymax>40<", "<ymax>nan<"),
        "has 'nan' as ymax",
    ),
    "no name": (layouts.voc, change(XML, "<name>cat</name>", ""), "a.xml: object 2 has no name"),
    "an empty name": (layouts.voc, change(XML, ">cat<", "> <"), "a.xml: object 2 has no name"),
    "entities": (
        layouts.voc,
        lambda root: write(
            XML, '<!DOCTYPE annotation [<!ENTITY x "y">]>\n' + (root / XML).read_text()
        )(root),
        "a.xml: has a <!DOCTYPE>",
    ),
    "entities in UTF-16": (
        layouts.voc,
        lambda root: write(
            XML,
            ('<!DOCTYPE annotation [<!ENTITY x "y">]>' + (root / XML).read_text()).encode("utf-16"),
        )(root),
        "a.xml: has a <!DOCTYPE>",
    ),
    "an unknown encoding": (
        layouts.voc,
        write(XML, '<?xml version="1.0" encoding="klingon"?><annotation/>'),
        "a.xml: not XML: unknown encoding: klingon",
    ),
    "other XML": (layouts.voc, write(XML, "<svg/>"), "not a Pascal VOC file: it has <svg>"),
    "a listed image that is missing": (
        layouts.voc,
        delete("JPEGImages/c.jpg"),
        "train.txt:3: there is no image named c",
    ),
    "an empty list": (layouts.voc, write("ImageSets/Main/train.txt", "\n"), "there are no images"),
    "two XML files of an image": (
        layouts.voc,
        lambda root: [
            (root / "more").mkdir(),
            write("more/a.xml", (root / XML).read_text())(root),
        ],
        "JPEGImages/a.jpg may belong to each of Annotations/a.xml, more/a.xml",
    ),
    # COCO
    "two COCO files of a split": (
        layouts.roboflow_coco,
        second_coco_file,
        "holds 2 COCO files of the split 'train': train/_annotations.coco.json, train/copy.json",
    ),
    "two COCO files": (
        lambda root: layouts.write_images(root, layouts.BOTH),
        two_names,
        "holds 2 COCO files that name no split: a.json, b.json",
    ),
    "broken JSON": (
        layouts.roboflow_coco,
        change("train/_annotations.coco.json", "]", ""),
        "coco.json:1:.*not JSON",
    ),
    "images of another dataset": (
        layouts.cvat,
        lambda root: [path.rename(path.with_stem("other")) for path in root.glob("images/*/*")],
        r"none of the 4 images that .* lists is under .*, such as 'a.jpg'",
    ),
    "a missing image": (
        layouts.roboflow_coco,
        delete("train/a.jpg"),
        "1 of the 3 images that .* missing: a.jpg",
    ),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_errors(tmp_path, kind):
    layout, spoil, message = ERRORS[kind]
    root = tmp_path / "data"
    root.mkdir()
    layout(root)
    spoil(root)
    with pytest.raises(UserError, match=message) as raised:
        for split in ("train", "val"):
            open_split(System(data_dir=str(tmp_path), dataset_dir="data"), Db(), split)
    assert "\n" not in str(raised.value) and str(tmp_path) in str(raised.value)


def turn_round(root):
    change(XML, "<xmin>3</xmin>", "<xmin>20</xmin>")(root)
    change(XML, "<xmax>20</xmax>", "<xmax>3</xmax>")(root)


def difficult(root):
    change("Annotations/b.v2.xml", "<difficult>0<", "<difficult>1<")(root)


# name: layout, what is done to it, the note, and the numbers of boxes in the images
REPAIRS = {
    "no label file": (
        layouts.roboflow_yolo,
        delete(LABEL),
        "1 image without a label file",
        [0, 1, 0],
    ),
    "a label without an image": (
        layouts.roboflow_yolo,
        write("train/labels/z.txt", "0 .5 .5 .1 .1"),
        r"1 label file without an image, passed over, such as .*labels/z.txt",
        [2, 1, 0],
    ),
    "an unreadable image": (
        layouts.roboflow_yolo,
        write("train/images/a.jpg", "no image"),
        "1 image cannot be read, left out, such as .*images/a.jpg",
        [1, 0],
    ),
    "outlines": (
        layouts.roboflow_yolo,
        write(LABEL, "0 .1 .1 .3 .1 .2 .5\n2 .1 .1 .2 .1 .2 .2 .1 .2\n"),
        "2 outlines read as the box around it",
        [2, 1, 0],
    ),
    "no names": (
        layouts.roboflow_yolo,
        entries(names=None),
        "they are called class 0, class 1, class 2",
        [2, 1, 0],
    ),
    "an empty list of names": (
        layouts.roboflow_yolo,
        entries(names="[]"),
        "they are called class 0",
        [2, 1, 0],
    ),
    "blank lines and spaces": (
        layouts.roboflow_yolo,
        write(LABEL, "\ufeff\n 0.0\t.5  .5 .1 .1 \r\n\n"),
        "read as a YOLO folder",
        [1, 1, 0],
    ),
    "an image in no split": (
        layouts.darknet,
        lambda root: layouts.write_images(root / "more", {"x": TRAIN["a"]}),
        "1 image in no folder of a split, passed over, such as more/x.jpg",
        [2, 1, 0],
    ),
    "an empty entry of a list": (
        layouts.roboflow_yolo,
        entries(train="[train/images, null]"),
        "read as a YOLO folder",
        [2, 1, 0],
    ),
    "a COCO file of no split": (
        layouts.roboflow_coco,
        lambda root: layouts.write_coco_file(root / "all.json", TRAIN),
        "all.json names no split, passed over",
        [2, 1, 0],
    ),
    "no XML file": (
        layouts.voc,
        delete(XML),
        "1 image without an XML file",
        [0, 1, 0],
    ),
    "an XML file without an image": (
        layouts.voc,
        lambda root: write("Annotations/z.xml", (root / XML).read_text())(root),
        r"1 XML file without an image, passed over, such as .*Annotations/z.xml",
        [2, 1, 0],
    ),
    "corners in the wrong order": (
        layouts.voc,
        turn_round,
        "1 box with corners in the wrong order",
        [2, 1, 0],
    ),
    "no size": (
        layouts.voc,
        change(XML, "<height>40</height>", ""),
        "read as a Pascal VOC folder",
        [2, 1, 0],
    ),
    "difficult objects": (layouts.voc, difficult, "read as a Pascal VOC folder", [2, 1, 0]),
}


@pytest.mark.parametrize("kind", REPAIRS)
def test_repairs(tmp_path, kind, caplog):
    layout, spoil, note, boxes = REPAIRS[kind]
    root = tmp_path / "data"
    root.mkdir()
    layout(root)
    spoil(root)
    system = System(data_dir=str(tmp_path), dataset_dir="data")
    caplog.set_level("INFO")
    dataset = open_split(system, Db(), "train")
    assert re.search(note, caplog.text)
    assert dataset.box_counts().tolist() == boxes
