"""demo.py from the command line to drawings, and what it refuses."""

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

import demo
from core.config.errors import UserError
from core.models.loading import LoadedDetector
from core.tools.detect import find_inputs
from tests.support.tiny_detector import write_config, write_snapshot


@pytest.fixture
def root(tmp_path):
    """A config and a snapshot of it."""
    write_config(tmp_path)
    write_snapshot(tmp_path, 20, ("person", "cat", "toothbrush"))
    return tmp_path


def argv(root, *more):
    return [str(root / "configs" / "CornerNet-tiny.json"), "--device", "cpu", *more]


def test_demo_draws_images_folders_and_videos(root, caplog):
    caplog.set_level(logging.INFO)
    video = cv2.VideoWriter(str(root / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    for value in (10, 200):
        video.write(np.full((64, 96, 3), value, np.uint8))
    video.release()
    image = np.random.default_rng(3).integers(0, 256, (300, 500, 3)).astype(np.uint8)
    (root / "folder").mkdir()
    for file in ("image.png", "folder/image.png", "folder/other.JPG"):
        (root / file).write_bytes(cv2.imencode(Path(file).suffix.lower(), image)[1].tobytes())
    (root / "folder" / "notes.txt").write_text("no image")
    inputs = [str(root / name) for name in ("image.png", "folder", "clip.avi")]
    out = root / "drawn"
    assert demo.main([*argv(root, *inputs), "--out", str(out), "--threshold", "0"]) == 0
    assert sorted(file.name for file in out.iterdir()) == [
        "clip.mp4",
        "image.png",
        "image_2.png",
        "other.jpg",
    ]
    drawn = cv2.imread(str(out / "image.png"))
    assert drawn.shape == image.shape and (drawn != image).any()
    clip = cv2.VideoCapture(str(out / "clip.mp4"))
    assert clip.get(cv2.CAP_PROP_FRAME_COUNT) == 2
    assert clip.get(cv2.CAP_PROP_FPS) == 10
    lines = [line for line in caplog.messages if "->" in line]
    assert len(lines) == 4 and "2 frames" in lines[-1]
    (out / "image.png").unlink()
    assert demo.main([*argv(root, inputs[0]), "--out", str(out), "--threshold", "1"]) == 0
    np.testing.assert_array_equal(cv2.imread(str(out / "image.png")), image)


def test_what_systems_leave_in_folders_is_passed_over(tmp_path):
    for name in ("a.jpg", "._a.jpg", "Thumbs.db", ".DS_Store", ".b.png"):
        (tmp_path / name).write_bytes(b"")
    assert find_inputs([tmp_path]) == [tmp_path / ".b.png", tmp_path / "a.jpg"]
    assert find_inputs([tmp_path / "._a.jpg"]) == [tmp_path / "._a.jpg"]  # named, so refused later


def test_drawings_have_names_that_a_file_system_takes(root):
    image = cv2.imencode(".png", np.zeros((60, 60, 3), np.uint8))[1].tobytes()
    names = ["n" * 251 + ".png", "n" * 250 + "m.png", "b\udce9.png", "back\\slash.PNG", "B_.PNG"]
    for name in names:
        (root / name).write_bytes(image)
    out = root / "drawn"
    assert demo.main([*argv(root, *(str(root / name) for name in names)), "--out", str(out)]) == 0
    written = sorted(file.name for file in out.iterdir())
    assert len(written) == len(names)
    assert written[:3] == ["B__2.png", "b_.png", "back_slash.png"]
    assert all(len(name) == 200 and name.startswith("nnn") for name in written[3:])


def test_an_image_too_large_for_the_memory_leaves_the_others(root, caplog, monkeypatch):
    for name, size in {"a.png": (60, 60), "b.png": (64, 96), "c.png": (60, 60)}.items():
        cv2.imwrite(str(root / name), np.zeros((*size, 3), np.uint8))
    detections = LoadedDetector.detections

    def full(self, image):
        if image.shape[1] == 96:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried")
        return detections(self, image)

    monkeypatch.setattr(LoadedDetector, "detections", full)
    inputs = [str(root / name) for name in ("a.png", "b.png", "c.png")]
    with pytest.raises(UserError, match=r"1 of 3 inputs were skipped: .*b\.png"):
        demo.main([*argv(root, *inputs), "--out", str(root / "drawn")])
    assert sorted(file.name for file in (root / "drawn").iterdir()) == ["a.png", "c.png"]
    line = f"skipped: {root / 'b.png'} is too large for the memory (96 x 64 pixels); smaller db"
    assert any(message.startswith(line) for message in caplog.messages)


def test_demo_mistakes_have_one_line(root):
    (root / "empty").mkdir()
    (root / "text.jpg").write_text("no image")
    (root / "text.mp4").write_text("no video")
    good = root / "good.png"
    cv2.imwrite(str(good), np.zeros((60, 60, 3), np.uint8))

    def message(*inputs, out=root / "drawn", more=()):
        with pytest.raises(UserError) as error:
            demo.main([*argv(root, *map(str, inputs)), "--out", str(out), *more])
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "no image, folder or video" in message(root / "gone.jpg")
    assert "holds no image or video" in message(root / "empty")
    assert "is a file" in message(good, out=root / "text.jpg")
    assert "would be overwritten" in message(good, out=root)
    assert "between 0 and 1" in message(good, more=("--threshold", "30"))
    assert not (root / "drawn").exists()
    bad = message(root / "text.jpg", root / "text.mp4", good)
    assert "2 of 3 inputs were skipped" in bad and "text.mp4" in bad
    assert [file.name for file in (root / "drawn").iterdir()] == ["good.png"]
