"""Pictures that come in, and files and texts that go out."""

import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from core.config.errors import UserError
from core.data.coco import CocoDetection
from core.data.loader import read_image
from core.evaluation.pictures import decoded_images
from core.evaluation.report import class_table, write_json
from tests.support.dbs_files import write_coco


@pytest.fixture
def dataset(tmp_path):
    return CocoDetection(write_coco(tmp_path), tmp_path / "images" / "train")


@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_come_in_order(dataset, workers):
    pictures = list(decoded_images(dataset, workers, range(3)))
    assert len(pictures) == 3
    for index, picture in enumerate(pictures):
        assert isinstance(picture, np.ndarray) and picture.dtype == np.uint8
        assert_array_equal(picture, read_image(dataset.image_path(index)))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("harm", ["cut short", "text", "empty", "gone"])
def test_a_bad_picture_ends_the_evaluation(dataset, workers, harm):
    path = dataset.image_path(1)
    content = {"cut short": path.read_bytes()[:700], "text": b"no picture", "empty": b""}
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(content[harm])
    pictures = decoded_images(dataset, workers, range(3))
    next(pictures)
    with pytest.raises(UserError, match=r"seven\.jpg cannot be decoded") as error:
        next(pictures)
    assert "\n" not in str(error.value)


def test_json_replaces_what_was_there_whole(tmp_path):
    path = tmp_path / "a" / "b" / "metrics.json"
    write_json(path, {"AP": 0.25, "AP_by_class": {"größe": None}}, indent=2)
    write_json(path, [1, 2])
    assert json.loads(path.read_text(encoding="utf-8")) == [1, 2]
    with pytest.raises(ValueError):
        write_json(path, [float("nan")])
    assert json.loads(path.read_text(encoding="utf-8")) == [1, 2]
    assert [file.name for file in path.parent.iterdir()] == ["metrics.json"]


def test_class_table_has_every_class():
    table = class_table({"cat": 0.5, "traffic light": None, "dog": 1.0, "hen": 0.1234}, columns=3)
    assert table.splitlines() == [
        " cat            0.500    traffic light      -    dog            1.000",
        " hen            0.123",
    ]
    assert class_table({}) == ""
