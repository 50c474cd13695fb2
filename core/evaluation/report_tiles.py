"""Image tiles of a report: the worst false positives and misses, with what is around them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from ..data.coco import CocoDetection
from ..data.images import Unreadable, read_image
from .debug_drawings import MISSED_COLOR, RIGHT_COLOR, WRONG_COLOR
from .draw import Mark, draw_marks
from .errors import BACKGROUND, TYPES, Causes
from .matching import Matched, overlaps_of

TILES = 24  # most tiles of false positives, and of misses
_WIDTH, _HEIGHT = 480, 360  # pixels of a tile, which is 4 by 3 units of pixels of the image
_CONTEXT = 2.0  # sides of a tile by those of its box, at least
_LEAST_UNIT = 12  # pixels
_BEYOND = (96, 96, 96)  # colour of what lies beyond the image
_QUALITY = 80  # of JPEG
_TEXT_SCALE = 0.7  # a tile is shown at half its size

_CAUSES = {
    "classification": "wrong class, of a {name}",
    "localization": "imprecise, IoU {overlap:.2f} with a {name}",
    "both": "wrong class and imprecise, IoU {overlap:.2f} with a {name}",
    "duplicate": "a {name} again",
    "background": "background",
}


@dataclass(frozen=True)
class Tile:
    """A part of an image with boxes, and what it shows.

    Attributes:
        jpeg: the image; empty if it cannot be read.
        title: class and score, or class and size.
        text: what is wrong.
        file_name: of the image, as the annotation file has it.
    """

    jpeg: bytes
    title: str
    text: str
    file_name: str


def worst_false_positives(matched: Matched, count: int = TILES) -> np.ndarray:
    """Chooses the wrong detections with the highest scores: int64 [k], numbers in ``matched``."""
    return np.flatnonzero(matched.found < 0)[:count]


def worst_misses(matched: Matched, threshold: float, count: int = TILES) -> np.ndarray:
    """Chooses the largest objects that no detection from ``threshold`` on found: int64 [k]."""
    missed = np.flatnonzero(matched.object_scores < threshold)
    return missed[np.argsort(-matched.object_areas[missed], kind="stable")[:count]]


def false_positive_tiles(
    matched: Matched, causes: Causes, dataset: CocoDetection, threshold: float
) -> list[Tile]:
    """Draws the worst false positives.

    Args:
        matched: detections and objects.
        causes: what is wrong with them.
        dataset: dataset of the images.
        threshold: the least score of the other detections that are drawn.
    """
    names = dataset.class_names
    subjects = []
    for row in worst_false_positives(matched).tolist():
        box, image = matched.boxes[row], int(matched.images[row])
        objects = np.flatnonzero(matched.object_images == image)
        text = _CAUSES["background"]
        if len(objects):
            overlaps = _overlaps(box, matched.object_boxes[objects])
            own = matched.object_labels[objects] == matched.labels[row]
            kind = TYPES[causes.types[row]]
            of_own = kind in ("localization", "duplicate")
            of_others = kind == "classification"
            counted = np.where(own if of_own else ~own if of_others else True, overlaps, -1)
            best = int(counted.argmax())
            name = names[matched.object_labels[objects[best]]]
            text = _CAUSES[kind].format(name=name, overlap=overlaps[best])
        title = f"{names[matched.labels[row]]} {matched.scores[row]:.2f}"
        subjects.append(_Subject(image, box, title, text, row, True))
    return list(_tiles(subjects, matched, dataset, threshold))


def miss_tiles(matched: Matched, dataset: CocoDetection, threshold: float) -> list[Tile]:
    """Draws the worst misses; arguments as of :func:`false_positive_tiles`."""
    names = dataset.class_names
    subjects = []
    for row in worst_misses(matched, threshold).tolist():
        box, image = matched.object_boxes[row], int(matched.object_images[row])
        score = matched.object_scores[row]
        rows = np.flatnonzero(matched.images == image)
        overlaps = _overlaps(box, matched.boxes[rows])
        text = "nothing was detected here"
        if np.isfinite(score):
            text = f"found with a score of {score:.2f} only"
        elif len(rows) and overlaps.max() > BACKGROUND:
            nearest = int(rows[overlaps.argmax()])
            text = (
                f"nearest: {names[matched.labels[nearest]]} {matched.scores[nearest]:.2f}, "
                f"IoU {overlaps.max():.2f}"
            )
        title = f"{names[matched.object_labels[row]]}, {box[2]:.0f} x {box[3]:.0f} pixels"
        subjects.append(_Subject(image, box, title, text, row, False))
    return list(_tiles(subjects, matched, dataset, threshold))


@dataclass(frozen=True)
class _Subject:
    """What a tile is about: a box xywh of an image; a detection, or an object that was missed."""

    image: int
    box: np.ndarray
    title: str
    text: str
    row: int  # number of the detection or object
    is_detection: bool


def _tiles(
    subjects: Iterable[_Subject], matched: Matched, dataset: CocoDetection, threshold: float
) -> Iterator[Tile]:
    for subject in subjects:
        content = b""
        image = read_image(dataset.image_path(subject.image))
        if not isinstance(image, Unreadable):
            marks = _marks(subject, matched, dataset.class_names, threshold)
            drawn = _draw_around(image, subject.box, marks)
            options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
            content = cv2.imencode(".jpg", drawn, options)[1].tobytes()
        file_name = dataset.file_name(subject.image)
        yield Tile(content, subject.title, subject.text, file_name)


def _marks(
    subject: _Subject, matched: Matched, names: Sequence[str], threshold: float
) -> list[Mark]:
    """Objects of an image, dashed, and its detections from ``threshold`` on.

    Returns:
        The boxes in pixels of the image; that of the subject has its class as text.
    """
    objects = np.flatnonzero(matched.object_images == subject.image)
    rows = (matched.images == subject.image) & (matched.scores >= threshold)
    if subject.is_detection:
        rows[subject.row] = True
    marks = []
    for row in objects.tolist():
        is_subject = row == subject.row and not subject.is_detection
        text = names[matched.object_labels[row]] if is_subject else ""
        marks.append(Mark(_corners(matched.object_boxes[row]), text, MISSED_COLOR, dashed=True))
    for row in np.flatnonzero(rows)[::-1].tolist():  # the best on top
        text = names[matched.labels[row]] if row == subject.row and subject.is_detection else ""
        color = RIGHT_COLOR if matched.found[row] >= 0 else WRONG_COLOR
        marks.append(Mark(_corners(matched.boxes[row]), text, color))
    return marks


def _draw_around(image: np.ndarray, box: np.ndarray, marks: list[Mark]) -> np.ndarray:
    """Draws the part of an image about a box xywh: uint8 [360, 480, 3], grey beyond the image.

    The box is in its middle, or nearer to the border that the image has there.
    """
    x, y, width, height = box
    unit = int(np.ceil(max(_CONTEXT * width / 4, _CONTEXT * height / 3, _LEAST_UNIT)))
    center = np.array([x + width / 2, y + height / 2])
    window = np.array([4, 3]) * unit
    room = np.array(image.shape[1::-1]) - window
    start = np.round(center - window / 2).astype(int)
    start = np.where(room > 0, np.clip(start, 0, np.maximum(room, 0)), room // 2)
    stop = start + window
    inner_start = np.clip(start, 0, image.shape[1::-1])
    inner_stop = np.clip(stop, inner_start, image.shape[1::-1])
    part = image[inner_start[1] : inner_stop[1], inner_start[0] : inner_stop[0]]
    (left, top), (right, bottom) = inner_start - start, stop - inner_stop
    part = cv2.copyMakeBorder(part, top, bottom, left, right, cv2.BORDER_CONSTANT, value=_BEYOND)
    kind = cv2.INTER_AREA if part.shape[1] > _WIDTH else cv2.INTER_CUBIC
    tile = cv2.resize(part, (_WIDTH, _HEIGHT), interpolation=kind)
    zoom = _WIDTH / (4 * unit)
    moved = [replace(mark, box=zoom * (mark.box - np.tile(start, 2))) for mark in marks]
    return draw_marks(tile, moved, _TEXT_SCALE)


def _corners(xywh: np.ndarray) -> np.ndarray:
    return np.concatenate([xywh[:2], xywh[:2] + xywh[2:]])


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of a box xywh [4] with boxes [k, 4]: float64 [k]."""
    return overlaps_of(box[None], others, np.zeros(len(others), bool))[0]
