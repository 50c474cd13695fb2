"""Detections drawn on one's own pictures and videos."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from ..config.errors import UserError
from ..data.images import load_image
from ..evaluation.draw import draw_detections
from ..evaluation.report import progress
from ..models.loading import LoadedDetector
from ..structures import Detections

logger = logging.getLogger(__name__)

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
VIDEOS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"})

_FRAMES_A_SECOND = 25.0  # of a video that does not say it


def draw_inputs(
    detector: LoadedDetector, inputs: Sequence[str | Path], out: Path, threshold: float
) -> None:
    """Draws what a detector finds, and logs one line an input.

    Args:
        detector: with its weights.
        inputs: pictures, videos, and folders of them.
        out: folder for the drawings, which have the names of the inputs; it is made.
        threshold: detections with a lower score are not drawn.

    Raises:
        UserError: an input is missing, or would be overwritten; after all others were drawn, an
            input that cannot be read.
    """
    if not 0 <= threshold <= 1:
        raise UserError(f"the threshold {threshold} must be between 0 and 1")
    files = find_inputs(inputs)
    targets = _name_outputs(files, out)
    out.mkdir(parents=True, exist_ok=True)
    unreadable = []
    for file, target in zip(files, targets, strict=True):
        draw = _draw_video if file.suffix.lower() in VIDEOS else _draw_picture
        try:
            logger.info("%s: %s -> %s", file, draw(detector, file, target, threshold), target)
        except UserError as error:
            logger.warning("skipped: %s", error)
            unreadable.append(file)
    if unreadable:
        raise UserError(
            f"{len(unreadable)} of {len(files)} inputs could not be read: "
            f"{', '.join(map(str, unreadable))}"
        )


def find_inputs(inputs: Iterable[str | Path]) -> list[Path]:
    """The files that are meant: those given, and the pictures and videos of folders given.

    Raises:
        UserError: an input does not exist, or a folder has neither pictures nor videos.
    """
    files = []
    for path in map(Path, inputs):
        if path.is_dir():
            inside = sorted(f for f in path.iterdir() if f.suffix.lower() in PICTURES | VIDEOS)
            if not inside:
                kinds = ", ".join(sorted(PICTURES | VIDEOS))
                raise UserError(f"the folder {path} holds no picture or video ({kinds})")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"there is no picture, folder or video {path}")
    return files


def _name_outputs(files: Sequence[Path], out: Path) -> list[Path]:
    """One file in ``out`` for each input; of inputs with one name, the later get a number."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; name a folder")
    targets: list[Path] = []
    for file in files:
        suffix = file.suffix.lower()
        suffix = ".mp4" if suffix in VIDEOS else suffix if suffix in PICTURES else ".jpg"
        target, number = out / f"{file.stem}{suffix}", 1
        while target in targets:
            number += 1
            target = out / f"{file.stem}_{number}{suffix}"
        targets.append(target)
    overwritten = {file.resolve() for file in files} & {target.resolve() for target in targets}
    if overwritten:
        raise UserError(f"{overwritten.pop()} would be overwritten; give another folder as --out")
    return targets


def _draw_picture(detector: LoadedDetector, file: Path, target: Path, threshold: float) -> str:
    """Draws on a picture; returns what was found, in words."""
    image = load_image(file)
    found = _above(detector.detections(image), threshold)
    if not cv2.imwrite(str(target), _drawn(image, found, detector)):
        raise OSError(f"{target} could not be written")
    counts = Counter(detector.class_names[label] for label in found.labels.tolist())
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"


def _draw_video(detector: LoadedDetector, file: Path, target: Path, threshold: float) -> str:
    """Draws on every frame of a video; returns what was found, in words."""
    video = cv2.VideoCapture(str(file))
    rate = video.get(cv2.CAP_PROP_FPS) or _FRAMES_A_SECOND
    total = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    writer, frames, objects = None, 0, 0
    try:
        for image in progress(_frames(video), max(total, 0) or None, "frame"):
            found = _above(detector.detections(image), threshold)
            drawn = _drawn(image, found, detector)
            if writer is None:
                size = (drawn.shape[1], drawn.shape[0])
                writer = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
                if not writer.isOpened():
                    raise OSError(f"{target} could not be written")
            writer.write(drawn)
            frames, objects = frames + 1, objects + len(found)
    finally:
        video.release()
        if writer is not None:
            writer.release()
    if not frames:
        raise UserError(f"{file} is not a video that OpenCV can read")
    return f"{frames} frames, {objects / frames:.1f} objects a frame"


def _frames(video: cv2.VideoCapture) -> Iterator[np.ndarray]:
    while True:
        there, image = video.read()
        if not there:
            return
        yield image


def _above(found: Detections, threshold: float) -> Detections:
    shown = found.scores >= threshold
    return Detections(found.boxes[shown], found.scores[shown], found.labels[shown])


def _drawn(image: np.ndarray, found: Detections, detector: LoadedDetector) -> np.ndarray:
    return draw_detections(image, found.boxes, found.labels, found.scores, detector.class_names)
