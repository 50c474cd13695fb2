"""Detections: a dict of the classes, a choice of rows, a drawing, and other programs' forms."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from core.config.errors import UserError
from core.detections import Detections
from core.evaluation.draw import draw_detections
from tests.support.detections import NAMES, found

FOUND = found()


def test_it_is_read_like_a_dict_of_the_classes():
    rows = FOUND["disc"]
    assert rows.dtype == np.float32 and rows.shape == (2, 5)
    np.testing.assert_array_equal(rows[0], np.float32([1, 2, 11, 22, 0.9]))
    assert FOUND["star"].shape == (0, 5)
    assert tuple(FOUND) == tuple(FOUND.keys()) == NAMES and dict(FOUND).keys() == set(NAMES)
    assert "ring" in FOUND and "cube" not in FOUND
    for (name, rows), values in zip(FOUND.items(), FOUND.values(), strict=True):
        np.testing.assert_array_equal(rows, values)
        np.testing.assert_array_equal(rows, FOUND.by_class()[name])
    with pytest.raises(KeyError, match="cube"):
        FOUND["cube"]
    assert len(FOUND) == 3


def test_rows():
    for key in (slice(1, None), np.array([1, 2]), np.array([False, True, True])):
        some = FOUND[key]
        assert some.scores.tolist() == np.float32([0.5, 0.25]).tolist() and some.names == NAMES
    assert FOUND[-1].labels.tolist() == [0] and len(FOUND[:0]) == 0
    with pytest.raises(IndexError):
        FOUND[3]


@pytest.mark.parametrize(
    ("how", "labels"),
    [
        ({}, [0, 1, 0]),
        ({"threshold": 0.5}, [0, 1]),
        ({"threshold": 0.51}, [0]),
        ({"threshold": 1}, []),
        ({"classes": "disc"}, [0, 0]),
        ({"classes": ["ring", "star"]}, [1]),
        ({"threshold": 0.3, "classes": ("disc",)}, [0]),
    ],
)
def test_filter(how, labels):
    assert FOUND.filter(**how).labels.tolist() == labels


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"threshold": 30}, "the threshold 30 must be from 0 to 1"),
        ({"threshold": float("nan")}, "the threshold nan must be from 0 to 1"),
        ({"classes": ["disc", "cube"]}, "there is no class 'cube'; there are disc, ring, star"),
    ],
)
def test_bad_filters(how, message):
    with pytest.raises(UserError, match=message):
        FOUND.filter(**how)


def test_repr():
    assert repr(FOUND) == "Detections(2 disc, 1 ring; scores 0.25 to 0.90)"
    assert repr(FOUND[:0]) == "Detections(nothing)"


def test_without_names():
    plain = Detections(FOUND.boxes, FOUND.scores, FOUND.labels)
    assert tuple(plain) == ("class 0", "class 1") and len(plain["class 0"]) == 2
    assert dict(plain[:0]) == {}
    assert plain.draw(np.zeros((30, 40, 3), np.uint8)).any()


def test_draw():
    image = np.random.default_rng(0).integers(0, 256, (500, 600, 3)).astype(np.uint8)
    expected = draw_detections(image, FOUND.boxes, FOUND.labels, FOUND.scores, NAMES)
    np.testing.assert_array_equal(FOUND.draw(image), expected)
    drawn = FOUND.draw(image[:, :, ::-1], rgb=True)
    np.testing.assert_array_equal(drawn, expected[:, :, ::-1])
    assert drawn.flags.c_contiguous
    with pytest.raises(UserError, match=r"there is no image nothing.jpg"):
        FOUND.draw("nothing.jpg")


def test_to_coco():
    rows = FOUND.to_coco(7, [18, 44, 3])
    assert rows[1] == {"image_id": 7, "category_id": 44, "bbox": [3, 4, 5, 6], "score": 0.5}
    assert [row["category_id"] for row in FOUND.to_coco(7)] == [1, 2, 1]
    assert json.loads(json.dumps(rows)) == rows
    assert FOUND[:0].to_coco(7) == []
    with pytest.raises(UserError, match="2 category_ids for 3 classes"):
        FOUND.to_coco(7, [18, 44])


def test_to_supervision(monkeypatch):
    module = SimpleNamespace(Detections=lambda **given: given)
    monkeypatch.setitem(sys.modules, "supervision", module)
    given = FOUND.to_supervision()
    assert given["xyxy"] is FOUND.boxes and given["confidence"] is FOUND.scores
    assert given["class_id"].tolist() == [0, 1, 0] and given["class_id"].dtype == int
    assert given["data"]["class_name"].tolist() == ["disc", "ring", "disc"]
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match="needs the package supervision: pip install supervision"):
        FOUND.to_supervision()
