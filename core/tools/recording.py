"""Video files that are written completely or not at all."""

import contextlib
import os
import shutil
from pathlib import Path

import cv2
import numpy as np

from ..config.errors import UserError
from .outputs import unfinished_path

_CHECKED_EVERY = 50  # frames, after which the free space is looked at
_LEAST_FREE = 4 << 20  # bytes; the encoder buffers less


class Recording:
    """A video file; until it is finished it has another name.

    OpenCV says nothing of frames that it could not write. So the free space is looked at while
    writing, and the frames of the file are counted at the end.

    Args:
        path: the file that it will be, ``.mp4``.
        rate: frames a second.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate, self.frames = path, rate, 0
        self._unfinished = unfinished_path(path)
        self._writer: cv2.VideoWriter | None = None

    def write(self, frame: np.ndarray, seconds: float | None = None) -> None:
        """Adds a frame.

        Args:
            frame: uint8 [h, w, 3], BGR; all of a video have one size.
            seconds: when it is to end, from the start on: it is repeated, or left out, so that the
                video keeps that time. None: it follows the one before.

        Raises:
            UserError: the file cannot be written.
        """
        copies = 1 if seconds is None else round(seconds * self.rate) + 1 - self.frames
        if self._writer is None:
            size = (frame.shape[1], frame.shape[0])
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._unfinished), codec, self.rate, size)
            if not self._writer.isOpened():
                raise UserError(f"{self.path} cannot be written: {size[0]} x {size[1]} pixels")
        if self.frames % _CHECKED_EVERY == 0:
            free = shutil.disk_usage(self.path.parent).free
            if free < _LEAST_FREE:
                raise UserError(f"{self.path} cannot be written: the disk is full")
        for _ in range(copies):
            self._writer.write(frame)
            self.frames += 1

    def finish(self, path: Path) -> None:
        """Closes the file, checks that it holds all frames, and gives it its name.

        Args:
            path: its name, in the folder of ``self.path``.

        Raises:
            UserError: it does not hold all frames, or cannot have that name.
        """
        self._release()
        there = _count_frames(self._unfinished)
        if there != self.frames:
            self.discard()
            raise UserError(
                f"{path} cannot be written: {there} of {self.frames} frames arrived; is the disk "
                "full?"
            )
        try:
            os.replace(self._unfinished, path)
        except OSError as error:
            self.discard()
            raise UserError(f"{path} cannot be written: {error.strerror}") from None

    def discard(self) -> None:
        """Closes the file and removes it, unless it is finished."""
        self._release()
        with contextlib.suppress(OSError):
            self._unfinished.unlink(missing_ok=True)

    def _release(self) -> None:
        if self._writer is not None:
            self._writer.release()


def _count_frames(path: Path) -> int:
    """Counts the frames of a video file; 0 if it cannot be read."""
    video = cv2.VideoCapture(str(path))
    frames = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 0
    video.release()
    return max(0, frames)
