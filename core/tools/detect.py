"""Draws what a detector finds in images, folders of images, and videos.

    python demo.py CornerNet_Squeeze street.jpg holiday/ clip.mp4 --out drawn
    python demo.py CornerNet --snapshot CornerNet_500000.pkl street.jpg --threshold 0.5

The drawings go into the folder of --out, under the names of the inputs.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from ..cli import add_snapshot_arguments, command_parser, load_chosen_detector
from ..config.errors import UserError
from ..data.file_names import is_system_file, output_name
from ..data.images import load_image
from ..data.large_images import TooLargeImage
from ..evaluation.draw import draw_detections
from ..evaluation.report import progress_bar
from ..models.loading import LoadedDetector
from ..structures import Detections

logger = logging.getLogger(__name__)

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
VIDEOS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"})

_FRAMES_A_SECOND = 25.0  # for a video whose file does not give it, or gives one that cannot be
_MOST_FRAMES_A_SECOND = 1000.0


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit code."""
    parser = command_parser("detect", __doc__)
    add_snapshot_arguments(parser)
    parser.add_argument("inputs", nargs="+", metavar="IMAGE|FOLDER|VIDEO")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder (%(default)s)")
    parser.add_argument(
        "--threshold", type=float, default=0.3, help="lowest score to draw (%(default)s)"
    )
    options = parser.parse_args(argv)
    files = find_inputs(options.inputs)  # before the weights, which can take a while to load
    draw_inputs(load_chosen_detector(options), files, options.out, options.threshold)
    return 0


def draw_inputs(
    detector: LoadedDetector, inputs: Sequence[str | Path], out: Path, threshold: float
) -> None:
    """Draws what a detector finds in each input, and logs a line about it.

    Args:
        detector: detector with its weights.
        inputs: images, videos, and folders of them.
        out: folder for the drawings, which are named like the inputs; made if it is missing.
        threshold: lowest score of a detection that is drawn.

    Raises:
        UserError: an input is missing or would be overwritten, before anything is drawn; or an
            input cannot be read or is too large for the memory, after all others were drawn.
    """
    if not 0 <= threshold <= 1:
        raise UserError(f"the threshold {threshold} must be between 0 and 1")
    files = find_inputs(inputs)
    targets = _name_outputs(files, out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out} cannot be made: {error.strerror}") from None
    skipped = []
    for file, target in zip(files, targets, strict=True):
        draw = _draw_video if file.suffix.lower() in VIDEOS else _draw_image
        try:
            logger.info("%s: %s -> %s", file, draw(detector, file, target, threshold), target)
        except UserError as error:
            logger.warning("skipped: %s", error)
            skipped.append(file)
    if skipped:
        raise UserError(
            f"{len(skipped)} of {len(files)} inputs were skipped: {', '.join(map(str, skipped))}"
        )


def find_inputs(inputs: Iterable[str | Path]) -> list[Path]:
    """Lists the files to draw on: those given, and the images and videos of folders given.

    Raises:
        UserError: an input does not exist, or a folder holds neither images nor videos.
    """
    files = []
    for path in map(Path, inputs):
        if path.is_dir():
            inside = sorted(
                file
                for file in path.iterdir()
                if file.suffix.lower() in IMAGES | VIDEOS and not is_system_file(file.name)
            )
            if not inside:
                kinds = ", ".join(sorted(IMAGES | VIDEOS))
                raise UserError(f"the folder {path} holds no image or video ({kinds})")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"there is no image, folder or video {path}")
    return files


def _name_outputs(files: Sequence[Path], out: Path) -> list[Path]:
    """Chooses a file in ``out`` for each input; a name that is taken gets a number."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; name a folder")
    targets: list[Path] = []
    taken: set[str] = set()
    for file in files:
        suffix = file.suffix.lower()
        suffix = ".mp4" if suffix in VIDEOS else suffix if suffix in IMAGES else ".jpg"
        name, number = output_name(file.stem, suffix), 1
        while name.casefold() in taken:
            number += 1
            name = output_name(file.stem, f"_{number}{suffix}")
        taken.add(name.casefold())
        targets.append(out / name)
    overwritten = {file.resolve() for file in files} & {target.resolve() for target in targets}
    if overwritten:
        raise UserError(f"{overwritten.pop()} would be overwritten; give another folder as --out")
    return targets


def _draw_image(detector: LoadedDetector, file: Path, target: Path, threshold: float) -> str:
    """Draws on an image; returns a description of what was found."""
    image = load_image(file)
    found = _above(_detections(detector, image, file), threshold)
    content = cv2.imencode(target.suffix, _drawn(image, found, detector))[1].tobytes()
    try:
        target.write_bytes(content)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}") from None
    counts = Counter(detector.class_names[label] for label in found.labels.tolist())
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"


def _draw_video(detector: LoadedDetector, file: Path, target: Path, threshold: float) -> str:
    """Draws on every frame of a video; returns a description of what was found."""
    for path in (file, target):
        _require_unicode(path)
    video = cv2.VideoCapture(str(file))
    if not video.isOpened():
        raise UserError(f"{file} is not a video that OpenCV can read")
    rate = video.get(cv2.CAP_PROP_FPS)
    if not 0 < rate <= _MOST_FRAMES_A_SECOND:
        rate = _FRAMES_A_SECOND
    total = max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))
    writer, frames, objects = None, 0, 0
    try:
        for image in progress_bar(total or None, "frame", items=_frames(video)):
            found = _above(_detections(detector, image, file), threshold)
            drawn = _drawn(image, found, detector)
            if writer is None:
                size = (drawn.shape[1], drawn.shape[0])
                writer = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
                if not writer.isOpened():
                    raise UserError(f"{target} cannot be written: {size[0]} x {size[1]} pixels")
            writer.write(drawn)
            frames, objects = frames + 1, objects + len(found)
    finally:
        video.release()
        if writer is not None:
            writer.release()
    if not frames:
        raise UserError(f"{file} has no frame that OpenCV can read")
    missing = f" of the {total} that the file announces" if frames < total else ""
    return f"{frames} frames{missing}, {objects / frames:.1f} objects a frame"


def _require_unicode(path: Path) -> None:
    """Refuses a path that is no text, which ends OpenCV's video functions with a crash."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = str(path).encode("utf-8", "backslashreplace").decode()
        raise UserError(f"{shown} has bytes in its name that are not UTF-8; rename it") from None


def _detections(detector: LoadedDetector, image: np.ndarray, file: Path) -> Detections:
    """Finds the objects of an image.

    Raises:
        UserError: the image is too large for the memory.
    """
    with TooLargeImage(image) as attempt:
        return detector.detections(image)
    raise UserError(f"{file} {attempt.problem}")


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
