"""COCO annotation files as packed arrays, which worker processes read without copying them.

A Python object per image or box would be copied into every forked worker as soon as the worker
changes its reference count; a few large arrays are never copied.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..config.errors import UserError
from .records import Records, find_mistakes, read_records

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


class CocoDetection:
    """The images and boxes of one COCO annotation file.

    Labels 0 … C-1 are the file's category ids in ascending order. Images keep the file's order.

    Args:
        annotation_file: a COCO file; without ``annotations`` (a test split) images have no boxes.
        image_dir: the folder that the file's ``file_name`` entries are relative to.
        use_crowd: keep the boxes of crowds (``iscrowd``) as objects.
        categories: expected number of categories; None accepts any.
        records: the content of ``annotation_file``, if it was read and checked before.

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

    Raises:
        UserError: the file is missing, not JSON or not in COCO's format, or has another number of
            categories, an image or category id twice, an annotation of an unknown image or
            category, or a ``file_name`` that leaves ``image_dir``.
    """

    def __init__(
        self,
        annotation_file: Path,
        image_dir: Path,
        use_crowd: bool = True,
        categories: int | None = None,
        records: Records | None = None,
    ) -> None:
        self.annotation_file, self.image_dir = Path(annotation_file), Path(image_dir)
        if records is None:
            records = read_records(self.annotation_file)
            for mistake in find_mistakes(records):
                raise UserError(f"{self.annotation_file}: {mistake.message}")
        self.has_annotations = records["annotations"] is not None
        self._pack_categories(records["categories"], categories)
        self._pack_images(records["images"])
        annotations = records["annotations"] or []
        if not use_crowd:
            annotations = [record for record in annotations if not record.get("iscrowd")]
        self._pack_boxes(annotations)
        logger.info("%s: %s", self.annotation_file, self._summary())

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
        return self._boxes[self._box_ends[index] : self._box_ends[index + 1]].copy()

    def labels(self, index: int) -> np.ndarray:
        """Returns the labels of :meth:`boxes`: int64 [n]."""
        return self._labels[self._box_ends[index] : self._box_ends[index + 1]].copy()

    def box_counts(self) -> np.ndarray:
        """Returns the number of boxes in each image: int64 [N]."""
        return np.diff(self._box_ends)

    def _pack_categories(self, rows: Sequence[Records], expected: int | None) -> None:
        if expected is not None and expected != len(rows) and (rows or self.has_annotations):
            raise UserError(
                f"{self.annotation_file}: holds {len(rows)} categories and db.categories says "
                f"{expected}; correct db.categories, or leave it out"
            )
        if self.has_annotations and not rows:
            raise UserError(f'{self.annotation_file}: "categories" is missing or empty')
        ordered = sorted(rows, key=lambda row: row["id"])
        self.category_ids = np.array([row["id"] for row in ordered], np.int64)
        self.class_names: tuple[str, ...] = tuple(row["name"] for row in ordered)

    def _pack_images(self, rows: Sequence[Records]) -> None:
        if not rows:
            raise UserError(f"{self.annotation_file}: lists no images")
        self.image_ids = np.array([row["id"] for row in rows], np.int64)
        self.sizes = np.array([(row["height"], row["width"]) for row in rows], np.int32)
        names = [row["file_name"].encode("utf-8", "surrogatepass") for row in rows]
        self._names = b"".join(names)
        self._name_ends = np.cumsum([0, *map(len, names)], dtype=np.int64)

    def _pack_boxes(self, rows: Sequence[Records]) -> None:
        owners = _positions(self.image_ids, [row["image_id"] for row in rows])
        order = np.argsort(owners, kind="stable")
        owners = owners[order]
        labels = _positions(self.category_ids, [row["category_id"] for row in rows])[order]
        xywh = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)[order]
        boxes, kept, repaired = repair_boxes(xywh, self.sizes[owners])
        self._boxes, self._labels = boxes[kept], labels[kept]
        counts = np.bincount(owners[kept], minlength=len(self))
        self._box_ends = np.cumsum([0, *counts], dtype=np.int64)
        self.repaired, self.dropped = int(repaired.sum()), int((~kept).sum())

    def _summary(self) -> str:
        empty = int((self.box_counts() == 0).sum())
        return (
            f"{len(self)} images ({empty} without boxes), {len(self._boxes)} boxes "
            f"({self.repaired} clipped to their image, {self.dropped} without extent dropped), "
            f"{len(self.class_names)} classes"
        )


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
    boxes = clipped.astype(np.float32)
    kept = finite & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    repaired = kept & (np.abs(clipped - corners) > _ROUNDING).any(axis=1)
    return boxes, kept, repaired


def _positions(keys: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Finds each value in ``keys``, which hold every value once: positions int64 [n]."""
    order = np.argsort(keys)
    wanted = np.asarray(values, np.int64)
    return order[np.searchsorted(keys, wanted, sorter=order)]
