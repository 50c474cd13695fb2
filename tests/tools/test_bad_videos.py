"""Videos that are damaged or unusual: each is drawn, or ends in one line and exit code 2.

The cases are in docs/robustness.md too.
"""

import logging
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from core.config.errors import UserError
from tests.support.stub_detectors import OneObject
from tests.support.stub_detectors import draw as draw_inputs

NOT_A_VIDEO, NO_FRAME = "is not a video that OpenCV can read", "has no frame that OpenCV can read"
FRAMES = 5


def video(path, size=(96, 64), frames=FRAMES, codec="MJPG"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, size)
    rng = np.random.default_rng(0)
    for _ in range(frames):
        writer.write(rng.integers(0, 256, (size[1], size[0], 3)).astype(np.uint8))
    writer.release()
    return path


@pytest.fixture(scope="module")
def avi(tmp_path_factory):
    """A whole AVI file with JPEG frames."""
    return video(tmp_path_factory.mktemp("video") / "good.avi").read_bytes()


def changed(data, *changes):
    """Replaces bytes behind a mark of an AVI file: (mark, offset, new bytes)."""
    data = bytearray(data)
    for mark, offset, new in changes:
        at = data.index(mark) + offset
        data[at : at + len(new)] = new
    return bytes(data)


def zero_rate(avi):
    return changed(avi, (b"avih", 8, bytes(4)), (b"strh", 28, bytes(8)))


def huge_rate(avi):
    numbers = (1).to_bytes(4, "little"), (10**6).to_bytes(4, "little")
    return changed(avi, (b"avih", 8, numbers[0]), (b"strh", 28, b"".join(numbers)))


def without_frames(avi):
    """Replaces the data of every frame by zeros."""
    data, at = bytearray(avi), avi.index(b"00dc", avi.index(b"movi"))
    while data[at : at + 4] == b"00dc":
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        data[at + 8 : at + 8 + size] = bytes(size)
        at += 8 + size + size % 2
    return bytes(data)


# Name of the file, its content made from a whole AVI, and a part of the message.
REFUSED = {
    "an empty file": ("a.mp4", lambda avi: b"", NOT_A_VIDEO),
    "text": ("a.mp4", lambda avi: b"no video", NOT_A_VIDEO),
    "a web page": ("a.webm", lambda avi: b"<!DOCTYPE html><html></html>", NOT_A_VIDEO),
    "zeros": ("a.mov", lambda avi: bytes(5000), NOT_A_VIDEO),
    "its first bytes": ("a.avi", lambda avi: avi[:300], NOT_A_VIDEO),
    "a header and noise": (
        "a.avi",
        lambda avi: avi[:300] + np.random.default_rng(0).bytes(5000),
        NO_FRAME,
    ),
    "frames that are zeros": ("a.avi", without_frames, NO_FRAME),
    "a name that is not UTF-8": ("a\udcff.avi", lambda avi: avi, "not UTF-8; rename it"),
}
# The frames that are drawn, and their rate.
DRAWN = {
    "cut short behind some frames": ("a.avi", lambda avi: avi[: len(avi) * 7 // 10], 10),
    "no frame rate": ("a.avi", zero_rate, 25),
    "a million frames a second": ("a.avi", huge_rate, 25),
    "an AVI named .mp4": ("a.mp4", lambda avi: avi, 10),
    "a name with a percent sign": ("a%03d.avi", lambda avi: avi, 10),
}
SIZES = {"one pixel": (1, 1), "odd sides": (97, 65), "a strip": (2000, 8)}


def draw(*files, out, force=False):
    draw_inputs(OneObject(), *files, out=out, force=force)
    (drawn,) = out.iterdir()
    reader = cv2.VideoCapture(str(drawn))
    return reader.get(cv2.CAP_PROP_FRAME_COUNT), reader.get(cv2.CAP_PROP_FPS)


def refusal(caplog, *files, out):
    """The line about the only file that is skipped, or the error before any is drawn."""
    with pytest.raises(UserError) as error:
        draw_inputs(OneObject(), *files, out=out)
    assert "\n" not in str(error.value)
    lines = [record.message for record in caplog.records if record.levelname == "WARNING"]
    return lines[0] if lines else str(error.value)


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind, avi, tmp_path, caplog):
    name, content, message = REFUSED[kind]
    file = tmp_path / name
    file.write_bytes(content(avi))
    line = refusal(caplog, file, out=tmp_path / "out")
    shown = str(file).encode("utf-8", "backslashreplace").decode()
    assert line.startswith(f"skipped: {shown} ") and message in line and "\n" not in line
    assert not list((tmp_path / "out").iterdir())


def test_the_others_are_drawn(avi, tmp_path, caplog):
    for name, content in {"a.avi": b"", "b.avi": avi}.items():
        (tmp_path / name).write_bytes(content)
    assert NOT_A_VIDEO in refusal(caplog, tmp_path, out=tmp_path / "out")
    assert [drawn.name for drawn in (tmp_path / "out").iterdir()] == ["b.mp4"]


@pytest.mark.parametrize("kind", DRAWN)
def test_drawn(kind, avi, tmp_path, caplog):
    name, content, rate = DRAWN[kind]
    (tmp_path / name).write_bytes(content(avi))
    with caplog.at_level(logging.INFO):
        frames, drawn_rate = draw(tmp_path / name, out=tmp_path / "out")
    cut = kind.startswith("cut")
    assert 0 < frames < FRAMES if cut else frames == FRAMES
    assert drawn_rate == rate
    announced = f"{frames:.0f} frames of the {FRAMES} that the file announces"
    assert (announced in caplog.text) == cut


@pytest.mark.parametrize("kind", SIZES)
def test_sizes(kind, tmp_path):
    file = video(tmp_path / "a.avi", SIZES[kind])
    assert draw(file, out=tmp_path / "out") == (FRAMES, 10)


def test_an_mp4_without_its_end(tmp_path, caplog):
    file = video(tmp_path / "a.mp4", codec="mp4v")
    file.write_bytes(file.read_bytes()[:-500])
    assert NOT_A_VIDEO in refusal(caplog, file, out=tmp_path / "out")


def test_no_frames(tmp_path, caplog):
    file = video(tmp_path / "a.avi", frames=0)
    assert "that OpenCV can read" in refusal(caplog, file, out=tmp_path / "out")


def test_no_file(tmp_path, caplog):
    line = refusal(caplog, tmp_path / "gone.mp4", out=tmp_path / "out")
    assert line == f"there is no image, folder or video {tmp_path / 'gone.mp4'}"


def test_a_folder_named_as_a_video(tmp_path, caplog):
    (tmp_path / "a.mp4").mkdir()
    assert "holds no image or video" in refusal(caplog, tmp_path / "a.mp4", out=tmp_path / "out")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_a_video_that_may_not_be_read(avi, tmp_path, caplog):
    file = tmp_path / "a.avi"
    file.write_bytes(avi)
    file.chmod(0)
    assert NOT_A_VIDEO in refusal(caplog, file, out=tmp_path / "out")


def test_outputs_that_cannot_be_written(avi, tmp_path, caplog):
    file, image = tmp_path / "a.avi", tmp_path / "b.png"
    file.write_bytes(avi)
    cv2.imwrite(str(image), np.zeros((60, 60, 3), np.uint8))
    assert refusal(caplog, file, out=file).endswith("is a file; name a folder")
    assert "cannot be made: Not a directory" in refusal(caplog, file, out=file / "below")
    for name in ("a.mp4", "b.png"):
        (tmp_path / "out" / name).mkdir(parents=True)
    for source, name in ((file, "a.mp4"), (image, "b.png")):
        line = refusal(caplog, source, out=tmp_path / "out")
        assert line == f"{tmp_path / 'out' / name} is a folder; give another folder as --out"


def test_an_output_that_is_there_is_replaced_by_force_and_an_input_never(avi, tmp_path, caplog):
    file, out = tmp_path / "a.avi", tmp_path / "out"
    file.write_bytes(avi)
    out.mkdir()
    (out / "a.mp4").write_text("older")
    line = f"{out / 'a.mp4'} is there already; --force overwrites it, or give another --out"
    assert refusal(caplog, file, out=out) == line
    assert (out / "a.mp4").read_text() == "older"
    assert draw(file, out=out, force=True) == (FRAMES, 10)
    shown: Path = out / "a.mp4"
    assert refusal(caplog, shown, out=out).endswith("give another folder as --out")
