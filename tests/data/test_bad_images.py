"""Damaged and unusual images: the check, training, evaluation and detection give one verdict."""

import logging
import zlib

import numpy as np
import pytest

from core.config.errors import UserError
from core.data import images
from core.data.coco import CocoDetection
from core.data.image_sizes import read_size
from core.data.images import (
    Unreadable,
    decode_image,
    decoded_images,
    image_problem,
    load_image,
    read_image,
)
from core.data.loader import TrainingImages
from core.data.tables import read_tables
from core.data.unreadable import UnreadableImages
from tests.support.odd_images import odd_images, photo, save

ODD = list(odd_images())
NO_SIZE = ("float_colour.tiff", "double.tiff")  # Pillow does not know them


def dataset_of(folder, *files):
    """A dataset without boxes of files in a folder, whose sizes are not known."""
    images = [{"id": n, "file_name": name, "height": 9, "width": 9} for n, name in enumerate(files)]
    records = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    return CocoDetection(folder / "a.json", folder, tables=read_tables(records))


def keep(image, boxes, labels, rng):
    """A training sample that is the image."""
    return image


def test_there_are_many():
    assert len({odd.name for odd in ODD}) == len(ODD) >= 60


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.name)
def test_all_readers_agree(odd, tmp_path, capfd):
    path = tmp_path / odd.name
    path.write_bytes(odd.data)
    (tmp_path / "good.png").write_bytes(save(photo(3), "PNG"))
    dataset = dataset_of(tmp_path, odd.name, "good.png")
    training = TrainingImages(dataset, keep)
    if not isinstance(odd.expected, str):
        image = decode_image(odd.data)
        assert image.dtype == np.uint8 and image.flags["C_CONTIGUOUS"]
        assert image.shape == odd.expected.shape
        assert np.abs(image.astype(int) - odd.expected).max() <= odd.tolerance
        assert image_problem(path, image.shape[:2]) is None
        assert read_size(path) == (None if odd.name in NO_SIZE else image.shape[:2])
        (sample, number, unreadable), evaluated = training[0, 0], next(reader(dataset))
        assert (number, unreadable) == (0, [])
        for same in (sample, evaluated, load_image(path), read_image(path)):
            np.testing.assert_array_equal(same, image)
        return
    problem = decode_image(odd.data)
    assert isinstance(problem, Unreadable) and not problem.too_large
    assert odd.expected in problem.reason and "\n" not in problem.reason
    assert image_problem(path, (9, 9)) == f"{path}: {problem.reason}"
    assert training[0, 0][1:] == (1, [0])
    with pytest.raises(UserError) as evaluated_error:
        next(reader(dataset))
    with pytest.raises(UserError) as detected:
        load_image(path)
    assert str(detected.value) == f"{path} {problem.reason}"
    assert str(evaluated_error.value).startswith(f"{path} {problem.reason}; replace it")
    assert "imdecode" not in capfd.readouterr().err  # OpenCV's own log


def reader(dataset):
    return decoded_images(dataset, 0, range(len(dataset)))


def test_training_names_the_reason(tmp_path, caplog):
    (tmp_path / "page.jpg").write_bytes(b"<html>")
    watch = UnreadableImages(dataset_of(tmp_path, "page.jpg", *["gone.jpg"] * 199))
    with caplog.at_level(logging.WARNING):
        watch.note(type("Batch", (), {"unreadable": np.array([0, 1])}))
    reasons = [message.split(maxsplit=1)[1] for message in caplog.messages]
    assert reasons[0].startswith("cannot be decoded: it is text, perhaps a web page; the next")
    assert reasons[1].startswith("does not exist; the next")


def test_an_impossible_name_is_a_reason(tmp_path):
    assert read_image(tmp_path / "\ud800.jpg").reason.startswith("cannot be read: the file system")
    assert read_image(tmp_path).reason.startswith("cannot be read: ")
    assert read_size(tmp_path / "\ud800.jpg") is None
    assert read_size(tmp_path / "gone.jpg") is None


def test_most_files_are_decoded_once(monkeypatch):
    """Also those of phones: another image after the end, and zeros between the two."""
    whole, count = save(photo(), "JPEG", quality=90), []
    decode = images._decode
    monkeypatch.setattr(images, "_decode", lambda data: count.append(1) or decode(data))
    for data in (whole, whole + bytes(300), whole + bytes(300) + whole):
        count.clear()
        assert isinstance(decode_image(data), np.ndarray) and len(count) == 1


def test_more_pixels_than_opencv_takes_are_a_reason(tmp_path):
    jpeg, png = save(photo(), "JPEG"), save(photo(), "PNG")
    frame = jpeg.find(b"\xff\xc0") + 5
    jpeg = jpeg[:frame] + (60_000).to_bytes(2, "big") * 2 + jpeg[frame + 4 :]
    header = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + png[24:29]
    png = png[:12] + header + zlib.crc32(header).to_bytes(4, "big") + png[33:]
    for data in (jpeg, png):
        (tmp_path / "a").write_bytes(data)
        assert read_size(tmp_path / "a") == (60_000, 60_000)
        problem = read_image(tmp_path / "a")
        assert problem.too_large
        assert problem.reason.startswith("has 60000 x 60000 pixels, too many for OpenCV; the env")
