"""What `detect` takes as images, folders, patterns, videos and webcams, and what it refuses."""

from pathlib import Path

import pytest

from core.config.errors import UserError
from core.tools.sources import Source, find_sources


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two folders of empty files in the current folder."""
    for name in ("a.jpg", "b.PNG", "notes.txt", "c.mp4", "._a.jpg", "sub/d.webp", "sub/x/e.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*inputs):
    return [source.path.as_posix() for source in find_sources(inputs)]


@pytest.mark.parametrize(
    "given, found",
    [
        (["*.jpg"], ["a.jpg"]),
        (["?.*"], ["a.jpg", "b.PNG", "c.mp4"]),
        (["**/*.jpg"], ["a.jpg", "sub/x/e.jpg"]),
        (["**"], ["a.jpg", "b.PNG", "c.mp4", "sub/d.webp", "sub/x/e.jpg"]),
        (["sub/*"], ["sub/d.webp", "sub/x/e.jpg"]),
        (["[ab].*", "a.jpg", "*.jpg"], ["a.jpg", "b.PNG"]),
        (["."], ["a.jpg", "b.PNG", "c.mp4"]),
        (["notes.txt"], ["notes.txt"]),
    ],
)
def test_patterns_and_folders(folder, given, found):
    assert names(*given) == found


def test_kinds(folder):
    kinds = [source.kind for source in find_sources([Path("a.jpg"), "c.mp4", "0", "notes.txt"])]
    assert kinds == ["image", "video", "webcam", "image"]
    assert find_sources(["02"]) == [Source("webcam", Path("webcam_2"), 2)]
    assert str(find_sources(["2"])[0]) == "webcam 2"


def test_what_exists_is_taken_as_it_is_named(folder):
    (folder / "[ab].jpg").write_bytes(b"")
    (folder / "0").mkdir()
    (folder / "0" / "f.jpg").write_bytes(b"")
    assert names("[ab].jpg", "0") == ["[ab].jpg", "0/f.jpg"]


@pytest.mark.parametrize(
    "given, message",
    [
        ("gone.jpg", "there is no image, folder or video gone.jpg"),
        ("*.gif", "the pattern *.gif fits no image or video"),
        ("*.txt", "the pattern *.txt fits no image or video"),
        ("http://host/a.jpg", "is a URL, which detect does not open; download it first"),
        ("HTTPS://host/a*.mp4", "download it first, and name the file"),
        ("rtsp://host/1", "record it first, as with ffmpeg -i rtsp://host/1 -t 60 clip.mp4"),
        ("file:///a.jpg", "name the file without file://"),
    ],
)
def test_refused(folder, given, message):
    with pytest.raises(UserError) as error:
        find_sources([given])
    assert message in str(error.value) and "\n" not in str(error.value)
