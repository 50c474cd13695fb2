"""Sizes in annotation files that are not those of the images, and boxes that were not turned."""

import io
import json
import logging

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from core.config.errors import UserError
from core.config.loading import Db, System
from core.data import reconcile_sizes as module
from core.data.image_sizes import Header, read_size
from core.data.reconcile_sizes import SizeReport, reconcile_sizes, turn_box
from core.data.splits import open_split
from core.data.tables import read_tables
from tests.support.dbs_files import annotation

HEIGHT, WIDTH = 60, 100  # of every image, upright


def write_image(path, orientation=1, size=(HEIGHT, WIDTH)):
    """Writes an image that has this size once it is turned as its EXIF data says."""
    size = size[::-1] if orientation > 4 else size
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size[::-1], (20, 60, 90)).save(path, exif=exif)


def split(root, images):
    """Writes a split; images are (orientation, size in the file, boxes); returns its records."""
    folder = root / "coco" / "images" / "train"
    folder.mkdir(parents=True, exist_ok=True)
    rows, annotations = [], []
    for number, (orientation, (height, width), boxes) in enumerate(images):
        name = f"{number}.jpg"
        write_image(folder / name, orientation)
        rows.append({"id": number + 5, "file_name": name, "height": height, "width": width})
        for box in boxes:
            annotations.append(annotation(len(annotations), number + 5, 1, list(box)))
    categories = [{"id": 1, "name": "thing"}]
    records = {"images": rows, "annotations": annotations, "categories": categories}
    (root / "coco" / "annotations").mkdir(exist_ok=True)
    file = root / "coco" / "annotations" / "instances_train.json"
    file.write_text(json.dumps(records))
    return records


def reconciled(root, images):
    """Returns the report, and sizes and boxes afterwards."""
    tables = read_tables(split(root, images))
    folder = root / "coco" / "images" / "train"
    tables, report = reconcile_sizes(tables, folder, root / "a.json")
    sizes = [tuple(size) for size in tables.images.sizes.tolist()]
    return report, sizes, tables.annotations.boxes.tolist()


RIGHT, BOTTOM = [80, 40, 20, 20], [2, 70, 50, 30]  # fit the upright image only; the stored one only


def test_sizes_that_agree_stay(tmp_path):
    report, _, boxes = reconciled(tmp_path, [(1, (60, 100), [RIGHT]), (6, (60, 100), [RIGHT])])
    assert report == SizeReport(checked=2)
    assert boxes == [RIGHT, RIGHT]


@pytest.mark.parametrize("orientation", [1, 6])
def test_swapped_sizes_are_replaced_and_upright_boxes_stay(tmp_path, orientation, caplog):
    images = [(orientation, (100, 60), [RIGHT]), (orientation, (100, 60), [[0, 0, 5, 5]])]
    report, sizes, boxes = reconciled(tmp_path, images)
    assert (report.replaced, report.turned, report.clipped) == (2, 0, 0)
    assert sizes == [(60, 100)] * 2 and boxes == [RIGHT, [0, 0, 5, 5]]
    with caplog.at_level(logging.WARNING):
        dataset = open_split(System(data_dir=str(tmp_path)), Db(), "train")
    assert dataset.boxes(0).tolist() == [[80, 40, 100, 60]]
    assert (dataset.repaired, dataset.dropped) == (0, 0)
    (line,) = caplog.messages
    assert "2 of 2 sizes replaced by those of the images; the first: 0.jpg has 100 x 60" in line


def test_boxes_drawn_before_the_rotation_are_turned_with_all_images(tmp_path):
    images = [
        (6, (100, 60), [BOTTOM]),
        (6, (100, 60), [[0, 0, 10, 20]]),
        (3, (60, 100), [[0, 0, 10, 20]]),
        (1, (60, 100), [RIGHT]),
    ]
    report, sizes, boxes = reconciled(tmp_path, images)
    assert (report.replaced, report.turned) == (2, 3)
    assert "the boxes of 3 images turned with them" in report.note
    assert sizes == [(60, 100)] * 4
    assert boxes == [[0, 2, 30, 50], [80, 0, 20, 10], [90, 40, 10, 20], RIGHT]


def test_where_some_images_are_upright_in_the_file_only_the_others_are_turned(tmp_path):
    images = [(6, (100, 60), [BOTTOM]), (8, (60, 100), [RIGHT]), (3, (60, 100), [[0, 0, 10, 20]])]
    report, _, boxes = reconciled(tmp_path, images)
    assert report.turned == 1
    assert boxes == [[0, 2, 30, 50], RIGHT, [0, 0, 10, 20]]


def test_boxes_of_both_kinds_are_refused(tmp_path):
    with pytest.raises(UserError, match="of 1 images fit them only before the rotation") as error:
        reconciled(tmp_path, [(6, (100, 60), [BOTTOM]), (6, (100, 60), [RIGHT])])
    assert "\n" not in str(error.value) and str(tmp_path / "a.json") in str(error.value)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_turns_with_its_image(orientation):
    stored = np.zeros((30, 50), np.uint8)
    stored[5:12, 20:44] = 255  # [20, 5, 24, 7]
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(stored).save(file, "PNG", exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(file)))
    expected = list(cv2.boundingRect(upright))
    assert turn_box([20, 5, 24, 7], Header(30, 50, orientation)) == expected


def test_another_resolution_is_refused_where_boxes_do_not_fit(tmp_path):
    images = [(1, (120, 200), [[150, 10, 20, 20]]), (1, (120, 200), [[1, 1, 9, 9]])]
    with pytest.raises(UserError) as error:
        reconciled(tmp_path, images)
    text = str(error.value)
    assert "the boxes of 1 images fit the sizes in the file and not the images" in text
    assert "0.jpg has 100 x 60 pixels, the file says 200 x 120, 2 times as large" in text
    assert "divide the boxes by 2" in text and "\n" not in text
    with pytest.raises(UserError, match="the file says 200 x 61; correct the sizes"):
        reconciled(tmp_path, [(1, (61, 200), [[150, 10, 20, 20]])])


def test_another_resolution_is_replaced_where_boxes_fit(tmp_path):
    report, sizes, boxes = reconciled(tmp_path, [(1, (120, 200), [RIGHT]), (1, (30, 50), [RIGHT])])
    assert (report.replaced, report.clipped) == (2, 0)
    assert sizes == [(60, 100)] * 2 and boxes == [RIGHT, RIGHT]


def test_a_box_beyond_both_sizes_is_no_reason(tmp_path):
    report, sizes, _ = reconciled(tmp_path, [(1, (61, 101), [[90, 10, 30, 5]])])
    assert (report.replaced, report.clipped, sizes) == (1, 0, [(60, 100)])


def test_one_image_in_a_hundred_may_be_wrong(tmp_path, monkeypatch):
    good = [(1, (60, 100), [])] * 99
    report, sizes, _ = reconciled(tmp_path, [*good, (1, (120, 200), [[150, 10, 20, 20]])])
    assert (report.replaced, report.clipped) == (1, 1) and set(sizes) == {(60, 100)}
    assert "the boxes of 1 clipped to their image" in report.note


def test_images_that_cannot_be_read_keep_their_size(tmp_path):
    tables = read_tables(split(tmp_path, [(1, (7, 8), []), (1, (7, 8), [])]))
    folder = tmp_path / "coco" / "images" / "train"
    (folder / "0.jpg").unlink()
    (folder / "1.jpg").write_bytes(b"no image")
    same, report = reconcile_sizes(tables, folder, tmp_path)
    assert same is tables and report.replaced == 0


def test_of_many_images_some_are_read_first(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_ALL", 3)
    read = []
    monkeypatch.setattr(
        module, "read_header", lambda path: read.append(path.name) or Header(60, 100, 1)
    )
    good, bad = (1, (60, 100), []), (1, (61, 100), [])
    assert reconciled(tmp_path, [good] * 5)[0] == SizeReport(checked=3)
    assert sorted(read) == ["0.jpg", "2.jpg", "4.jpg"]
    report, sizes, _ = reconciled(tmp_path, [good, bad, good, good, bad])
    assert (report.checked, report.replaced) == (5, 2) and set(sizes) == {(60, 100)}


def test_a_jpeg_header_may_be_long(tmp_path):
    path = tmp_path / "a.jpg"
    write_image(path, 6)
    data = path.read_bytes()
    profile = b"\xff\xe2\xff\xff" + bytes(65533)
    path.write_bytes(data[:2] + profile * 3 + b"\xff" + data[2:])  # and a byte that fills up
    assert read_size(path) == (60, 100)
    path.write_bytes(data[:2] + profile * 3)
    assert read_size(path) is None


def test_exif_data_of_either_byte_order_and_none(tmp_path):
    path = tmp_path / "a.jpg"
    write_image(path, 6)
    data = path.read_bytes()
    at = data.find(b"Exif\0\0") + 6
    entry = b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"
    for exif, size in {
        b"II*\0\x08\0\0\0\x01\0" + entry: (60, 100),
        b"II*\0\x08\0\0\0\x01\0" + entry.replace(b"\x06", b"\x09"): (100, 60),  # no orientation
        b"MM\0*\xff\xff\xff\xff": (100, 60),
        b"": (100, 60),
    }.items():
        length = int.from_bytes(data[at - 8 : at - 6], "big") - 8
        assert len(exif) <= length
        path.write_bytes(data[:at] + exif.ljust(length, b"\0") + data[at + length :])
        assert read_size(path) == size == cv2.imread(str(path)).shape[:2]
