"""Image files: decoding, files that are refused, and the order of images from workers."""

import cv2
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from core.config.errors import UserError
from core.data.coco import CocoDetection
from core.data.images import (
    Unreadable,
    decode_image,
    decoded_images,
    image_problem,
    load_image,
    read_image,
)
from core.data.jpeg import CUT
from tests.support.dbs_files import write_coco


@pytest.fixture
def dataset(tmp_path):
    return CocoDetection(write_coco(tmp_path), tmp_path / "images" / "train")


@pytest.mark.parametrize("workers", [0, 2])
def test_images_come_in_order(dataset, workers):
    images = list(decoded_images(dataset, workers, [2, 0, 1]))
    assert len(images) == 3
    for index, image in zip([2, 0, 1], images, strict=True):
        assert isinstance(image, np.ndarray) and image.dtype == np.uint8
        assert_array_equal(image, read_image(dataset.image_path(index)))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("fault", ["cut short", "text", "empty", "missing"])
def test_an_unreadable_image_ends_the_stream(dataset, workers, fault):
    path = dataset.image_path(1)
    content = {"cut short": path.read_bytes()[:700], "text": b"no image", "empty": b""}
    if fault == "missing":
        path.unlink()
    else:
        path.write_bytes(content[fault])
    images = decoded_images(dataset, workers, range(3))
    next(images)
    reasons = {"cut short": "is cut short", "missing": "does not exist"}
    reason = reasons.get(fault, "cannot be decoded")
    with pytest.raises(UserError, match=rf"seven\.jpg {reason}.*; replace it, or") as error:
        next(images)
    assert "\n" not in str(error.value)


def test_load_image_says_what_is_wrong_with_a_file(dataset, tmp_path):
    path = dataset.image_path(0)
    assert_array_equal(load_image(str(path)), read_image(path))
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(UserError, match=r"thirty\.jpg is cut short"):
        load_image(path)
    with pytest.raises(UserError, match=r"there is no image .*nothing\.jpg"):
        load_image(tmp_path / "nothing.jpg")


def test_a_thumbnail_is_not_the_end_of_a_jpeg_file(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
    data = cv2.imencode(".jpg", image)[1].tobytes()
    thumbnail = cv2.imencode(".jpg", image[:8, :8])[1].tobytes()
    segment = b"\xff\xe5" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    with_thumbnail = data[:2] + segment + data[2:]
    path = tmp_path / "a.jpg"
    path.write_bytes(with_thumbnail)
    assert image_problem(path, (40, 50)) is None
    path.write_bytes(with_thumbnail + b"\0" * 5000)
    assert image_problem(path, (40, 50)) is None
    path.write_bytes(with_thumbnail[:-400])
    assert "cut short" in (image_problem(path, (40, 50)) or "")
    assert decode_image(path.read_bytes()) == Unreadable(CUT)


@pytest.mark.parametrize("extension", [".png", ".bmp", ".webp"])
def test_other_formats_are_read(tmp_path, extension):
    path = tmp_path / f"a{extension}"
    cv2.imwrite(str(path), np.zeros((6, 7, 3), np.uint8))
    assert image_problem(path, (6, 7)) is None


def test_an_image_is_turned_as_its_exif_data_says():
    """Orientation 6: row 0 of the file is the right side of the image."""
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:, 16:] = 255  # the right half is white
    tag = b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"  # Orientation, one short: 6
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + tag + b"\0\0\0\0"
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    stored = cv2.imencode(".jpg", cv2.rotate(upright, cv2.ROTATE_90_COUNTERCLOCKWISE))[1].tobytes()
    image = decode_image(stored[:2] + segment + stored[2:])
    assert image.shape == (16, 32, 3)
    assert image[:, :12].max() < 30 and image[:, 20:].min() > 225
