"""Drawings of what a detector finds in videos and in the images of webcams."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from ..config.errors import UserError
from ..evaluation.report import progress_bar
from .detect_job import Job
from .recording import Recording
from .sources import Source

_FRAMES_A_SECOND = 25.0  # for a video whose file does not give it, or gives one that cannot be
_MOST_FRAMES_A_SECOND = 1000.0
_WINDOW = "cornerkit detect: q ends it"
_KEYS = frozenset({ord("q"), 27})  # q and Escape


def draw_video(job: Job, source: Source, shown: bool = False) -> str:
    """Draws on every frame of a video file, or of a webcam until Ctrl-C.

    The drawn video has the frame rate of the video. Ctrl-C ends the recording of a webcam; that of
    a file it leaves with the frames so far, under its name and ``.part``.

    Args:
        job: detector and outputs.
        source: a video or a webcam.
        shown: True: show the frames in a window too, where the key q does what Ctrl-C does.

    Returns:
        A description of what was found.

    Raises:
        UserError: the video cannot be read, its frames are too large for the memory, or the drawn
            video cannot be written.
        KeyboardInterrupt: Ctrl-C ended the video of a file, or came before the first frame.
    """
    target = job.outputs.drawings[source]
    for path in (source.path, target):
        _require_unicode(path)
    counts: list[int] = []  # objects of each frame
    interrupted = False
    with _opened(source) as video:
        total = _length(video) if source.kind == "video" else 0
        recording = Recording(target, _rate(video))
        try:
            for drawing, objects, seconds in _drawings(job, source, video, total):
                recording.write(drawing, seconds if source.kind == "webcam" else None)
                counts.append(objects)
                if shown:
                    _show(drawing)
        except KeyboardInterrupt:
            interrupted = True
        except BaseException:
            recording.discard()
            raise
    partial = target.with_name(f"{target.name}.part")
    stopped = interrupted and (source.kind == "video" or not counts)
    if counts:
        recording.finish(partial if stopped else target)
    if stopped:
        raise KeyboardInterrupt
    if not counts:
        raise UserError(f"{source} has no frame that OpenCV can read")
    partial.unlink(missing_ok=True)
    missing = f" of the {total} that the file announces" if len(counts) < total else ""
    return f"{len(counts)} frames{missing}, {sum(counts) / len(counts):.1f} objects a frame"


def require_window() -> None:
    """Opens the window for the frames.

    Raises:
        UserError: there is no display, or OpenCV was built without windows.
    """
    hint = "leave --show out; the drawn video is written all the same"
    displays = ("DISPLAY", "WAYLAND_DISPLAY")
    if sys.platform.startswith("linux") and not any(map(os.environ.get, displays)):
        raise UserError(f"--show: there is no display; {hint}")  # OpenCV would end the process
    try:
        cv2.namedWindow(_WINDOW, cv2.WINDOW_NORMAL)
    except cv2.error:
        raise UserError(f"--show: this build of OpenCV has no windows; {hint}") from None


def _drawings(
    job: Job, source: Source, video: cv2.VideoCapture, total: int
) -> Iterator[tuple[np.ndarray, int, float]]:
    """Draws on the frames, under a progress bar.

    Args:
        job, source: as for :func:`draw_video`.
        video: the open video.
        total: number of frames that it announces; 0: unknown.

    Yields:
        Each drawing, its number of objects, and the seconds since the first.
    """
    batch = job.batch or 1 if source.kind == "webcam" else None  # a camera's frames come slowly
    started = 0.0
    with contextlib.closing(job.stream(_frames(video), batch)) as found_in:
        frames = progress_bar(total or None, "frame", items=found_in)
        for number, (image, found) in enumerate(frames):
            if isinstance(found, str):
                raise UserError(f"{source} {found}")
            now = time.monotonic()
            started = started if number else now
            yield job.record(source, image, found, number), len(found), now - started


def _frames(video: cv2.VideoCapture) -> Iterator[np.ndarray]:
    while True:
        there, image = video.read()
        if not there:
            return
        yield image


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[cv2.VideoCapture]:
    """Opens a video or a webcam."""
    camera = source.kind == "webcam"
    video = cv2.VideoCapture(source.camera if camera else str(source.path))
    try:
        if not video.isOpened():
            problem = "is not there, or in use" if camera else "is not a video that OpenCV can read"
            raise UserError(f"{source} {problem}")
        yield video
    finally:
        video.release()


def _length(video: cv2.VideoCapture) -> int:
    return max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))


def _rate(video: cv2.VideoCapture) -> float:
    """Frames a second."""
    rate = video.get(cv2.CAP_PROP_FPS)
    return rate if 0 < rate <= _MOST_FRAMES_A_SECOND else _FRAMES_A_SECOND


def _show(drawing: np.ndarray) -> None:
    """Shows a frame; raises KeyboardInterrupt if a key says so."""
    cv2.imshow(_WINDOW, drawing)
    if cv2.waitKey(1) & 0xFF in _KEYS:
        raise KeyboardInterrupt


def _require_unicode(path: Path) -> None:
    """Refuses a path that is no text, which ends OpenCV's video functions with a crash."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = str(path).encode("utf-8", "backslashreplace").decode()
        raise UserError(f"{shown} has bytes in its name that are not UTF-8; rename it") from None
