"""Sheets of a dataset: which images, with which boxes, and how they look after augmentation."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from core.config.loading import load_config
from core.data.color import NORMALIZE
from core.data.splits import open_split
from core.evaluation import sheets
from core.evaluation.draw import class_color, contact_sheet
from core.evaluation.sheets import (
    augmented_drawings,
    plain_drawings,
    spread_evenly,
    write_sheets,
)
from core.structures import Sample
from core.tools.check import main
from tests.support.dbs_files import annotation, write_coco

GREY = 100


@pytest.fixture
def root(tmp_path):
    """Grey images of 96 x 48 pixels, each with one box, and a config for them."""
    images = [{"id": n, "file_name": f"{n:02d}.png", "height": 48, "width": 96} for n in range(20)]
    boxes = [annotation(n, n, 17, [24, 12, 48, 24]) for n in range(20)]
    root = tmp_path / "data" / "coco"
    for split in ("train", "val"):
        write_coco(root, split, images=images, annotations=boxes)
        for image in images:
            file = root / "images" / split / image["file_name"]
            cv2.imwrite(str(file), np.full((48, 96, 3), GREY, np.uint8))
    write_config(tmp_path)
    return tmp_path


def write_config(root, name="CornerNet-x", **db):
    system = {"data_dir": str(root / "data"), "train_split": "train", "val_split": "val"}
    db = {"input_size": [128, 128], "output_sizes": [[32, 32]], **db}
    (root / f"{name}.json").write_text(json.dumps({"system": system, "db": db}))
    return load_config(str(root / f"{name}.json"))


def open_train(config):
    return open_split(config.system, config.db, "train")


def place(drawing, label=1):
    """The smallest and the largest x and y that have the colour of a class."""
    ys, xs = np.nonzero((drawing == class_color(label)).all(axis=-1))
    return int(xs.min()), int(ys.min()), int(xs.max()), int(ys.max())


def test_images_are_spread_evenly():
    assert spread_evenly(100, 4) == [12, 37, 62, 87]
    assert spread_evenly(3, 32) == [0, 1, 2]
    assert spread_evenly(1, 1) == [0]


def test_boxes_are_drawn_at_the_size_of_a_cell(root):
    dataset = open_train(load_config(str(root / "CornerNet-x.json")))
    ((caption, drawing),) = plain_drawings(dataset, [3])
    assert caption == "03.png" and drawing.shape == (240, 480, 3)
    x0, _, x1, y1 = place(drawing)  # the label lies above
    assert abs(x0 - 120) <= 2 and abs(x1 - 360) <= 2 and abs(y1 - 180) <= 2


def test_an_image_that_cannot_be_read_says_why(root):
    dataset = open_train(load_config(str(root / "CornerNet-x.json")))
    dataset.image_path(3).write_bytes(b"")
    ((caption, _),) = plain_drawings(dataset, [3])
    assert caption == "03.png cannot be decoded: it is empty"


def test_augmented_images_are_those_of_the_first_epoch(root):
    """Zoom 2 and no shift: the box, in the middle, covers the whole width."""
    still = {"rand_color": False, "sampling": "fit", "zoom": [2, 2], "shift": 0}
    config = write_config(root, **still)
    dataset = open_train(config)
    ((caption, drawing),) = augmented_drawings(dataset, [3], config)
    assert caption == "03.png" and drawing.shape == (480, 480, 3)
    x0, _, x1, y1 = place(drawing)
    assert x0 <= 2 and x1 >= 477 and abs(y1 - 360) <= 2
    assert tuple(drawing[240, 240]) == (GREY,) * 3


def test_augmented_colours_are_shown(root):
    config = write_config(root)
    middles = [
        drawing[240, 240] for _, drawing in augmented_drawings(open_train(config), [3, 4], config)
    ]
    assert (middles[0] != middles[1]).any() and (middles[0] != GREY).any()
    again = [
        drawing[240, 240] for _, drawing in augmented_drawings(open_train(config), [3, 4], config)
    ]
    np.testing.assert_array_equal(middles, again)


def test_boxes_that_are_not_trained_say_so(root, monkeypatch):
    """As CornerNet-Saccade has them."""

    def sample(image, boxes, labels, rng):
        boxes, labels = np.repeat(boxes, 2, axis=0), np.repeat(labels, 2)
        return Sample(image.transpose(2, 0, 1), boxes, labels, NORMALIZE, np.array([True, False]))

    def draw(image, boxes, labels, scores, names):
        assert [names[label] for label in labels] == ["cat", "cat, not trained"]
        return image

    config = load_config(str(root / "CornerNet-x.json"))
    monkeypatch.setattr(sheets.models, "build", lambda *given: SimpleNamespace(sample=sample))
    monkeypatch.setattr(sheets, "draw_detections", draw)
    ((_, drawing),) = augmented_drawings(open_train(config), [3], config)
    assert (drawing == GREY).all()


def test_a_sheet_has_room_for_the_largest_of_its_drawings():
    colors = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    sizes = [(40, 60), (50, 30), (20, 80)]
    cells = [
        ("n" * 99, np.full((*size, 3), color, np.uint8))
        for size, color in zip(sizes, colors, strict=True)
    ]
    sheet = contact_sheet(cells, 2)
    assert sheet.shape == (2 * (56 + 24), 2 * 86, 3)
    for (row, column), size, color in zip(((0, 0), (0, 1), (1, 0)), sizes, colors, strict=True):
        top, left = row * 80 + 24, column * 86
        shown = sheet[top : top + size[0], left : left + size[1]]
        assert (shown == color).all()
    assert sheet[:24].max() > 200  # the captions
    assert contact_sheet(cells[:1], 4).shape == (46 + 24, 66, 3)


def test_sheets_have_sixteen_drawings(tmp_path):
    drawings = (("a", np.zeros((8, 8, 3), np.uint8)) for _ in range(33))
    paths = list(write_sheets(drawings, tmp_path / "new", "a/b"))
    assert [path.name for path in paths] == ["a_b_1.jpg", "a_b_2.jpg", "a_b_3.jpg"]
    assert all(path.is_file() for path in paths)


def test_the_check_draws_after_its_table(root, capsys):
    config, out = str(root / "CornerNet-x.json"), root / "out"
    assert main([config, "--draw", "17", "--out", str(out)]) == 0
    names = ["train_1.jpg", "train_2.jpg", "val_1.jpg", "val_2.jpg"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4:] == [f"drew {out / name}" for name in names]
    assert cv2.imread(str(out / "train_2.jpg")).shape[1] == 486
    assert main([config, "--draw", "2", "--augmented", "--out", str(out)]) == 0
    drawn = [line for line in capsys.readouterr().out.splitlines() if line.startswith("drew")]
    assert drawn == [f"drew {out / 'train_augmented_1.jpg'}"]
