"""Drawn videos and webcams: batches, Ctrl-C, a full disk, windows."""

import json
import resource
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from core.config.errors import UserError
from core.tools import detect_video
from core.tools.detect import draw_sources
from core.tools.detect_job import Job
from core.tools.detect_video import draw_video, require_window
from core.tools.detected_coco import DetectedCoco
from core.tools.outputs import Outputs, plan_outputs
from core.tools.recording import Recording
from core.tools.sources import find_sources
from tests.support.stub_detectors import OneObject, draw

FRAMES = 5


class Interrupted(OneObject):
    """A detector during which Ctrl-C is pressed, at its third image."""

    def detections(self, image):
        self.seen = getattr(self, "seen", 0) + 1
        if self.seen == 3:
            raise KeyboardInterrupt
        return super().detections(image)


@pytest.fixture
def avi(tmp_path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    for value in range(FRAMES):
        writer.write(np.full((64, 96, 3), 50 * value, np.uint8))
    writer.release()
    return path


@pytest.fixture
def webcam(avi, monkeypatch):
    """A webcam 0 that shows the video, a frame every 0.2 seconds."""
    opened, ticks = cv2.VideoCapture, iter(range(100))
    monkeypatch.setattr(cv2, "VideoCapture", lambda what: opened(str(avi) if what == 0 else what))
    clock = SimpleNamespace(monotonic=lambda: 100 + 0.2 * next(ticks))
    monkeypatch.setattr(detect_video, "time", clock)


def frames(path):
    video = cv2.VideoCapture(str(path))
    return [video.read()[1] for _ in range(int(video.get(cv2.CAP_PROP_FRAME_COUNT)))]


def written(folder):
    return sorted(path.name for path in folder.iterdir())


def test_frames_go_through_the_detector_in_batches(avi, tmp_path):
    detector = OneObject()
    draw(detector, avi, out=tmp_path / "out", batch=2)
    assert detector.batches == [2, 2, 1]
    shades = [frame[-40:].mean() for frame in frames(tmp_path / "out" / "clip.mp4")]
    np.testing.assert_allclose(shades, 50 * np.arange(FRAMES), atol=8)  # in their order


def test_ctrl_c_keeps_the_frames_so_far_under_another_name(avi, tmp_path):
    out = tmp_path / "out"
    sources = find_sources([avi])
    job = Job(Interrupted(), plan_outputs(sources, out), 0.3, batch=1)
    with pytest.raises(KeyboardInterrupt):
        draw_video(job, sources[0])
    assert written(out) == ["clip.mp4.part"] and len(frames(out / "clip.mp4.part")) == 2
    draw(OneObject(), avi, out=out)
    assert written(out) == ["clip.mp4"] and len(frames(out / "clip.mp4")) == FRAMES


def test_ctrl_c_writes_the_results_so_far(avi, tmp_path):
    results, coco = tmp_path / "found.json", DetectedCoco(OneObject.class_names)
    sources = find_sources([avi])
    job = Job(Interrupted(), plan_outputs(sources, tmp_path / "out", results), 0.3, None, 1, coco)
    with pytest.raises(KeyboardInterrupt):
        draw_sources(job, sources)
    images = json.loads(results.read_text())["images"]
    assert [(image["file_name"], image["frame"]) for image in images] == [
        (str(avi), 0),
        (str(avi), 1),
    ]


def test_a_webcam_is_recorded_until_ctrl_c_in_its_own_time(webcam, tmp_path):
    detector = Interrupted()
    draw(detector, "0", out=tmp_path / "out")
    assert detector.batches == [1, 1, 1]  # a batch of frames would take its time to come
    assert written(tmp_path / "out") == ["webcam_0.mp4"]
    assert len(frames(tmp_path / "out" / "webcam_0.mp4")) == 3  # 10 a second, of 0.2 seconds


def test_a_webcam_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="1 of 1 inputs were skipped: webcam 99"):
        draw(OneObject(), "99", out=tmp_path / "out")


class Failing(Interrupted):
    """A detector that fails once, at its third image."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def detections(self, image):
        try:
            return super().detections(image)
        except KeyboardInterrupt:
            raise self.error from None


def test_nothing_half_written_stays_after_an_error(avi, tmp_path):
    with pytest.raises(ValueError, match="a bug"):
        draw(Failing(ValueError("a bug")), avi, out=tmp_path / "out", batch=1)
    assert written(tmp_path / "out") == []


def test_a_frame_too_large_for_the_memory_ends_its_video(avi, tmp_path, caplog):
    with pytest.raises(UserError, match="1 of 1 inputs were skipped"):
        draw(Failing(MemoryError()), avi, out=tmp_path / "out", batch=4)
    assert "is too large for the memory (96 x 64 pixels)" in caplog.text
    assert written(tmp_path / "out") == []


def test_a_disk_that_fills_up(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (20, 240, 320, 3)).astype(np.uint8)
    target = tmp_path / "a.mp4"
    recording = Recording(target, 10)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        for frame in noise:
            recording.write(frame)
        with pytest.raises(UserError, match=r"a\.mp4 cannot be written: \d+ of 20 frames arrived"):
            recording.finish(target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert written(tmp_path) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="the disk is full"):
        Recording(target, 10).write(noise[0])


def test_a_folder_that_is_gone(tmp_path):
    with pytest.raises(UserError, match="cannot be written: 32 x 16 pixels"):
        Recording(tmp_path / "gone" / "a.mp4", 10).write(np.zeros((16, 32, 3), np.uint8))


def test_windows(avi, tmp_path, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(detect_video.sys, "platform", "linux")
    with pytest.raises(UserError, match="there is no display"):
        require_window()
    shown = []
    monkeypatch.setattr(cv2, "imshow", lambda _, image: shown.append(image))
    monkeypatch.setattr(cv2, "waitKey", lambda _: ord("q") if len(shown) == 2 else -1)
    source = find_sources([avi])[0]
    job = Job(OneObject(), Outputs({source: tmp_path / "a.mp4"}), 0.3)
    with pytest.raises(KeyboardInterrupt):
        draw_video(job, source, shown=True)
    assert len(shown) == 2 and Path(tmp_path / "a.mp4.part").exists()
