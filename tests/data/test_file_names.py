"""Names that a folder spells otherwise than the annotation file, and names of outputs."""

import logging
import os
import unicodedata

import pytest

from core.config.errors import UserError
from core.config.loading import Db, System
from core.data.file_names import is_system_file, match_file_names, output_name
from core.data.splits import open_split
from tests.support.dbs_files import write_coco


def matched(folder, given, files):
    """Returns the names after matching, and the line about them."""
    for name in files:
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb"):
            pass
    return match_file_names(given, folder)


NFC = "caf\u00e9.jpg"
NFD = unicodedata.normalize("NFD", NFC)
LONG = "n" * 247 + ".jpg"


@pytest.mark.parametrize(
    ("given", "there"),
    [
        (NFC, NFD),
        (NFD, NFC),
        ("a.JPG", "a.jpg"),
        ("a.jpeg", "a.JPEG"),
        ("Image_1.jpg", "image_1.jpg"),
        ("sub\\a.jpg", "sub/a.jpg"),
        ("sub%2Fmy%20a.jpg", "sub/my a.jpg"),
        ("my a.jpg", "my%20a.jpg"),
        ("100 %.jpg", "100 %.JPG"),
        ("STRASSE.jpg", "Straße.jpg"),
        ("b\udce9.JPG", "b\udce9.jpg"),
        (LONG.upper(), LONG),
    ],
)
def test_another_spelling_is_replaced(tmp_path, given, there):
    names, line = matched(tmp_path, ["x.png", given, given], ["x.png", there, "y.jpg"])
    assert names == ["x.png", there, there]
    assert line.startswith("1 file names are spelt otherwise than in ") and "\n" not in line


@pytest.mark.parametrize(
    ("given", "there"),
    [
        ([LONG, "100%25.jpg", "a\\b.jpg", "b\udce9.jpg"],) * 2,  # as they are
        (["a.jpg"], ["b.jpg"]),
        (["a.jpg"], ["a.png"]),
        (["a.jpg"], ["A.jpg", "a.JPG"]),  # which one?
        (["A.jpg", "a.JPG"], ["a.jpg"]),
        (["a.jpg", "A.jpg"], ["a.jpg"]),  # the other one has it
        (["a.jpg"], ["sub/a.jpg"]),
        (["\ud800.jpg", "n" * 300], ["a.jpg"]),  # no file can have these
        (["gone/a.jpg"], []),
    ],
)
def test_names_stay_where_nothing_else_fits(tmp_path, given, there):
    assert matched(tmp_path, given, there) == (given, "")


def test_a_split_says_it_once(tmp_path, caplog):
    file = write_coco(tmp_path / "coco")
    text = file.read_text(encoding="utf-8").replace("sub/seven.jpg", "sub\\\\seven.JPG")
    file.write_text(text, encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        dataset = open_split(System(data_dir=str(tmp_path)), Db(), "train")
    assert dataset.image_path(1) == tmp_path / "coco" / "images" / "train" / "sub" / "seven.jpg"
    (line,) = caplog.messages
    assert r"'sub\\seven.JPG' is 'sub/seven.jpg'" in line and str(file) in line
    dataset.image_path(1).unlink()
    with pytest.raises(UserError, match="1 of the 3 images that"):
        open_split(System(data_dir=str(tmp_path)), Db(), "train")


def test_system_files_are_known():
    names = ["._a.jpg", "Thumbs.db", ".DS_Store", "desktop.ini"]
    assert all(map(is_system_file, names))
    assert not any(map(is_system_file, ["a.jpg", "_.jpg", "thumbs.jpg", ".a.jpg"]))


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("image", "image.jpg"),
        ("größe 100%", "größe 100%.jpg"),
        ("sub/im\\age", "sub_im_age.jpg"),
        ('a:b*c?"<>|\n\0', "a_b_c_______.jpg"),
        ("b\udce9", "b_.jpg"),
        ("", "_.jpg"),
        ("..", "...jpg"),
        ("  ", "_.jpg"),
    ],
)
def test_output_names(tmp_path, stem, name):
    assert output_name(stem, ".jpg") == name
    (tmp_path / name).write_bytes(b"")
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_long_output_names_are_short_and_distinct(tmp_path):
    stems = ["n" * 251, "n" * 252, "é" * 125 + "n", "é" * 125 + "m", "😀" * 62]
    names = [output_name(stem, "_saccades.jpg") for stem in stems]
    assert len(set(names)) == len(stems)
    for name in names:
        assert 190 <= len(name.encode()) <= 200 and name.endswith("_saccades.jpg")
        (tmp_path / name).write_bytes(b"")
    assert output_name("n" * 196, ".jpg") == "n" * 196 + ".jpg"
