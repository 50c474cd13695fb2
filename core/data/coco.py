"""COCO annotation files as packed arrays, which worker processes read without copying them.

A Python object per image or box would be copied into every forked worker as soon as the worker
changes its reference count; a few large arrays are never copied.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from ..config.errors import UserError
from .plausibility import impossible_boxes, repeated_files
from .records import read_records
from .tables import Annotations, Mistake, Tables, read_tables

logger = logging.getLogger(__name__)

# The 80 categories of COCO detection (Lin et al. 2014) in the order of their ids: names for weights
# that come without any.
COCO_CLASS_NAMES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat"),
    *("dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack"),
    *("umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball"),
    *("kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket"),
    *("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair"),
    *("couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse"),
    *("remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink"),
    *("refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier"),
    "toothbrush",
)

# Pixels by which a box may cross the border without being counted: files round their numbers.
_ROUNDING = 0.01


class Truth(NamedTuple):
    """Objects that an evaluation compares detections with, those of crowds among them.

    Attributes:
        images, labels: int64 [n], position of each object's image in the dataset, and its label.
        boxes: float64 [n, 4], (x, y, width, height).
        areas: float64 [n], square pixels.
        crowd: bool [n], a crowd, which nobody must find.
    """

    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray


class CocoDetection:
    """The images and boxes of one COCO annotation file.

    Labels 0 … C-1 are the file's category ids in ascending order. Images keep the file's order. A
    box that is there twice, with the same class in the same image, is one.

    Args:
        annotation_file: a COCO file; without ``annotations`` (a test split) images have no boxes.
        image_dir: the folder that the file's ``file_name`` entries are relative to.
        use_crowd: keep the boxes of crowds (``iscrowd``) as objects.
        categories: expected number of categories; None accepts any.
        tables: the content of ``annotation_file``, if it was read before.
        strict: refuse records that cannot be used, and boxes that cannot be right, and log what
            was repaired. Otherwise those records are left out, and all of it is in ``problems`` and
            ``notes`` alone.
        reference_truth: :meth:`truth` has the file's own boxes, as the reference's scoring takes
            them, not the repaired ones.

    Attributes:
        annotation_file, image_dir: the arguments.
        class_names: C names.
        category_ids: int64 [C], ascending.
        image_ids: int64 [N].
        sizes: int32 [N, 2], height and width.
        has_annotations: True if the file has ``annotations``, even an empty list.
        repaired: number of boxes that were clipped to their image.
        dropped: number of boxes without width or height inside their image, or with numbers that
            are not finite.
        repeated: number of boxes that are there before.
        problems: lines about what would make a training on this file a bad one.
        notes: a line for each kind of repair.

    Raises:
        UserError: the file is missing, not JSON or not in COCO's format, or has another number of
            categories, a record that cannot be used (:class:`core.data.tables.Mistake`), or boxes
            that cannot be right (:func:`core.data.plausibility.impossible_boxes`).
    """

    def __init__(
        self,
        annotation_file: Path,
        image_dir: Path,
        use_crowd: bool = True,
        categories: int | None = None,
        tables: Tables | None = None,
        strict: bool = True,
        reference_truth: bool = False,
    ) -> None:
        self.annotation_file, self.image_dir = Path(annotation_file), Path(image_dir)
        self._use_crowd = use_crowd
        if tables is None:
            tables = read_tables(read_records(self.annotation_file))
        impossible = impossible_boxes(tables.images, tables.annotations)
        if strict:
            self._refuse(tables.mistakes, impossible)
        self.has_annotations = tables.has_annotations
        self._pack_categories(tables, categories)
        self._pack_images(tables)
        self.problems = tuple(filter(None, (impossible, repeated_files(tables.images))))
        self.notes: tuple[str, ...] = tuple(map(str, tables.repairs))
        self._pack_boxes(tables.annotations)
        self._reference_truth = _truth_of_file(tables.annotations) if reference_truth else None
        logger.info("%s: %s", self.annotation_file, self._summary())
        if strict:
            for line in (*self.notes, *self.problems):
                logger.info("%s: %s", self.annotation_file, line)

    def __len__(self) -> int:
        return len(self.image_ids)

    def image_path(self, index: int) -> Path:
        """Returns the path of image ``index``."""
        return self.image_dir / self.file_name(index)

    def file_name(self, index: int) -> str:
        """Returns the file name of image ``index`` as the annotation file gives it."""
        start, end = self._name_ends[index], self._name_ends[index + 1]
        return self._names[start:end].decode("utf-8", "surrogatepass")

    def boxes(self, index: int) -> np.ndarray:
        """Returns the boxes (x0, y0, x1, y1) of image ``index``: float32 [n, 4]."""
        rows = slice(self._box_ends[index], self._box_ends[index + 1])
        return self._boxes[rows][self._in_use(rows)]

    def labels(self, index: int) -> np.ndarray:
        """Returns the labels of :meth:`boxes`: int64 [n]."""
        rows = slice(self._box_ends[index], self._box_ends[index + 1])
        return self._labels[rows][self._in_use(rows)]

    def box_counts(self) -> np.ndarray:
        """Returns the number of boxes in each image: int64 [N]."""
        in_use = np.cumsum(self._in_use(slice(None)))
        return np.diff(np.concatenate([[0], in_use])[self._box_ends])

    def truth(self) -> Truth:
        """Returns all objects to compare detections with, also crowds that are not in use."""
        if self._reference_truth is not None:
            return self._reference_truth
        images = np.repeat(np.arange(len(self)), np.diff(self._box_ends))
        xywh = to_xywh(self._boxes)
        return Truth(images, self._labels, xywh, self._areas, self._crowd)

    def _in_use(self, rows: slice) -> np.ndarray:
        """Selects the boxes that are objects here, with or without crowds: bool [n]."""
        return ~self._crowd[rows] | self._use_crowd

    def _refuse(self, mistakes: Sequence[Mistake], impossible: str | None) -> None:
        if mistakes:
            more = f", and {len(mistakes) - 1} more such entries" if len(mistakes) > 1 else ""
            raise UserError(
                f"{self.annotation_file}: {mistakes[0].message}{more}; correct the file, or take "
                "such entries out of it (`cornerkit check CONFIG` lists them all)"
            )
        if impossible is not None:
            raise UserError(f"{self.annotation_file}: {impossible}")

    def _pack_categories(self, tables: Tables, expected: int | None) -> None:
        self.category_ids, self.class_names = tables.categories
        found = len(self.class_names)
        if expected is not None and expected != found and (found or self.has_annotations):
            raise UserError(
                f"{self.annotation_file}: holds {found} categories and db.categories says "
                f"{expected}; correct db.categories, or leave it out"
            )
        if self.has_annotations and not found:
            raise UserError(f'{self.annotation_file}: "categories" is missing or empty')

    def _pack_images(self, tables: Tables) -> None:
        self.image_ids, names, self.sizes = tables.images
        if not names:
            raise UserError(f"{self.annotation_file}: lists no images")
        encoded = [name.encode("utf-8", "surrogatepass") for name in names]
        self._names = b"".join(encoded)
        self._name_ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def _pack_boxes(self, rows: Annotations) -> None:
        boxes, kept, clipped = repair_boxes(rows.boxes, self.sizes[rows.images])
        classes = rows.images * len(self.class_names) + rows.labels
        first = _first_of_each(boxes, 2 * classes + rows.crowd, kept)
        image_areas = self.sizes[rows.images].astype(np.float64).prod(1)
        has_area = (rows.areas > 0) & (rows.areas <= image_areas)  # False for NaN
        own_areas = (boxes[:, 2:].astype(np.float64) - boxes[:, :2]).prod(1)
        order = np.argsort(rows.images, kind="stable")
        order = order[first[order]]
        self._boxes, self._labels, self._crowd = boxes[order], rows.labels[order], rows.crowd[order]
        self._areas = np.where(has_area, rows.areas, own_areas)[order]
        counts = np.bincount(rows.images[order], minlength=len(self))
        self._box_ends = np.cumsum([0, *counts], dtype=np.int64)
        repairs = {
            "are clipped to their image": (clipped, "bbox"),
            "have no extent in their image and are dropped": (~kept, "bbox"),
            "are in the file before and are dropped": (kept & ~first, "bbox"),
            "have no usable area and get that of the box": (first & ~has_area, "area"),
        }
        self.repaired, self.dropped, self.repeated, _ = (
            int(chosen.sum()) for chosen, _ in repairs.values()
        )
        self.notes = (
            *self.notes,
            *(
                f"{chosen.sum()} of {len(chosen)} boxes {what}, such as "
                f"{rows.describe(int(chosen.argmax()), field)}"
                for what, (chosen, field) in repairs.items()
                if chosen.any()
            ),
        )

    def _summary(self) -> str:
        empty = int((self.box_counts() == 0).sum())
        return (
            f"{len(self)} images ({empty} without boxes), {self.box_counts().sum()} boxes, "
            f"{len(self.class_names)} classes"
        )


def to_xywh(boxes: np.ndarray, dtype: DTypeLike = np.float64) -> np.ndarray:
    """Converts boxes xyxy float32 [n, 4] to COCO's x, y, width and height.

    In float64 they are exact, as the difference of two float32 numbers is exact there.
    """
    xywh = boxes.astype(dtype)
    xywh[:, 2:] -= xywh[:, :2]
    return xywh


def repair_boxes(xywh: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clips boxes to their images.

    Args:
        xywh: float64 [n, 4], (x, y, width, height) as COCO writes them.
        sizes: int [n, 2], (height, width) of each box's image.

    Returns:
        boxes: float32 [n, 4], (x0, y0, x1, y1) inside the image; undefined where not kept.
        kept: bool [n], the boxes with finite numbers and some width and height inside the image.
        repaired: bool [n], the kept boxes that clipping changed by more than rounding does.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        finite = np.isfinite(corners).all(axis=1)
        corners[~finite] = 0
    limits = np.tile(sizes[:, ::-1], 2)
    clipped = np.clip(corners, 0, limits)
    boxes = (clipped + 0.0).astype(np.float32)  # without a zero that is negative
    kept = finite & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    repaired = kept & (np.abs(clipped - corners) > _ROUNDING).any(axis=1)
    return boxes, kept, repaired


def _first_of_each(boxes: np.ndarray, keys: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Selects one of the boxes that are the same, with the same key: bool [n], the first of them.

    Args:
        boxes: float32 [n, 4].
        keys: int64 [n].
        kept: bool [n], the boxes to choose from.
    """
    rows = np.flatnonzero(kept)
    halves = np.ascontiguousarray(boxes[rows]).view(np.uint64)  # [n, 2], two sides each
    columns = (halves[:, 0], halves[:, 1], keys[rows])
    order = np.lexsort(columns)
    same = np.logical_and.reduce([column[order][1:] == column[order][:-1] for column in columns])
    chosen = kept.copy()
    chosen[rows[order[1:][same]]] = False
    return chosen


def _truth_of_file(rows: Annotations) -> Truth:
    """Objects as the file has them; pycocotools takes any box whose numbers are finite."""
    finite = np.isfinite(rows.boxes).all(axis=1)
    boxes = rows.boxes[finite]
    areas = np.where(np.isnan(rows.areas[finite]), boxes[:, 2] * boxes[:, 3], rows.areas[finite])
    return Truth(rows.images[finite], rows.labels[finite], boxes, areas, rows.crowd[finite])
