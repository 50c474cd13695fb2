"""Records of an annotation file as tables of arrays, without those that cannot be used.

This is the one place that decides what a file says: training, evaluation and the check take its
tables, what it left out (:class:`Mistake`), and what it read in spite of how it was written
(:class:`core.data.columns.Repair`). Boxes are clipped to their images in :mod:`core.data.coco`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .columns import BOX, INTEGER, NAME, NUMBER, TRUTH, Column, Repair, named, read_column
from .record_values import shown
from .records import Records

# A path that starts at a root or a drive, or leaves its folder by .., on any system.
_OUTSIDE = re.compile(r"^[/\\]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)|\0")
_LONGEST_SIDE = 2**24  # pixels; up to it, float32 holds every whole number


class Mistake(NamedTuple):
    """A record that cannot be used: its table and row in the file, and a message saying why."""

    table: str
    row: int
    message: str


class Categories(NamedTuple):
    """Categories in ascending order of their ids: int64 [C], and their names."""

    ids: np.ndarray
    names: tuple[str, ...]


class Images(NamedTuple):
    """Images in the order of the file.

    Attributes:
        ids: int64 [N].
        names: file names as the file gives them.
        sizes: int32 [N, 2], height and width.
    """

    ids: np.ndarray
    names: list[str]
    sizes: np.ndarray


class Annotations(NamedTuple):
    """Boxes in the order of the file.

    Attributes:
        images, labels: int64 [M], positions in the tables of images and of categories.
        boxes: float64 [M, 4], (x, y, width, height); they may be infinite or outside the image.
        areas: float64 [M], NaN where there is none, or none that can be read.
        crowd: bool [M].
        rows: int64 [M], positions in ``records``.
        records: all records of the file, for messages.
    """

    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    rows: np.ndarray
    records: Sequence[Records]

    def describe(self, index: int, field: str = "bbox") -> str:
        """Names box ``index`` in a message, with a field of its record."""
        row = int(self.rows[index])
        record = self.records[row]
        return f"{named(record, row, 'annotations')} with {field} {shown(record.get(field))}"


@dataclass(frozen=True)
class Tables:
    """Content of an annotation file.

    Attributes:
        categories, images, annotations: what can be used; without ``annotations`` in the file, no
            boxes.
        has_annotations: True if the file has ``annotations``, even an empty list.
        mistakes: the records that were left out: categories, images, annotations.
        repairs: one for each kind of value that was repaired.
    """

    categories: Categories
    images: Images
    annotations: Annotations
    has_annotations: bool
    mistakes: tuple[Mistake, ...]
    repairs: tuple[Repair, ...]


def read_tables(records: Records) -> Tables:
    """Reads the records of an annotation file, and leaves out those that cannot be used.

    Args:
        records: ``images``, ``annotations`` and ``categories``, as from
            :func:`core.data.records.read_records`.
    """
    rows = records["annotations"] or []
    category_columns = _columns(records["categories"], "categories", {"id": INTEGER, "name": NAME})
    sides = {"height": INTEGER, "width": INTEGER}
    image_columns = _columns(records["images"], "images", {"id": INTEGER, **sides})
    mistakes = [
        *_category_mistakes(records["categories"], category_columns),
        *_image_mistakes(records["images"], image_columns),
    ]
    categories = _pack_categories(category_columns, mistakes)
    images = _pack_images(records["images"], image_columns, mistakes)
    kinds = {"image_id": INTEGER, "category_id": INTEGER, "bbox": BOX, "iscrowd": TRUTH}
    columns = _columns(rows, "annotations", kinds | {"area": NUMBER})
    known = {field: columns[field].readable for field in kinds}
    known["image_id"] = _known(columns["image_id"], image_columns["id"])
    known["category_id"] = _known(columns["category_id"], category_columns["id"])
    mistakes += _annotation_mistakes(rows, known)
    read = (category_columns, image_columns, columns)
    return Tables(
        categories=categories,
        images=images,
        annotations=_pack_annotations(rows, columns, known, images.ids, categories.ids),
        has_annotations=records["annotations"] is not None,
        mistakes=tuple(mistakes),
        repairs=tuple(one for table in read for column in table.values() for one in column.repairs),
    )


_Columns = dict[str, Column]


def _columns(rows: Sequence[Records], table: str, kinds: Mapping[str, Any]) -> _Columns:
    return {field: read_column(rows, field, table, kind) for field, kind in kinds.items()}


def _category_mistakes(rows: Sequence[Records], columns: _Columns) -> Iterator[Mistake]:
    yield from _id_mistakes(rows, "categories", columns["id"])
    seen: set[str] = set()
    readable, names = columns["name"].readable.tolist(), columns["name"].values.tolist()
    for row, name in enumerate(names):
        if not readable[row]:
            given = shown(rows[row].get("name"))
            problem = f"{named(rows[row], row, 'categories')} has no name but {given}"
            yield Mistake("categories", row, problem)
        elif name in seen:
            yield Mistake("categories", row, f"two categories are named {shown(name)}")
        else:
            seen.add(name)


def _id_mistakes(rows: Sequence[Records], table: str, ids: Column) -> Iterator[Mistake]:
    """Finds ids that are no whole numbers, and those that an earlier row has."""
    readable = np.flatnonzero(ids.readable)
    first = np.zeros(len(rows), bool)
    first[readable[np.unique(ids.values[readable], return_index=True)[1]]] = True
    for row in np.flatnonzero(~first).tolist():
        noun = named({}, row, table)
        if ids.readable[row]:
            noun = noun.split()[0]
            yield Mistake(table, row, f"{noun} id {ids.values[row]} occurs twice")
        else:
            given = shown(rows[row].get("id"))
            yield Mistake(table, row, f"{noun} has id {given}, which is no whole number")


def _image_mistakes(rows: Sequence[Records], columns: _Columns) -> Iterator[Mistake]:
    yield from _id_mistakes(rows, "images", columns["id"])
    sized = np.ones(len(rows), bool)
    for side in (columns["height"], columns["width"]):
        sized &= side.readable & (side.values > 0) & (side.values <= _LONGEST_SIDE)
    for row, (image, has_size) in enumerate(zip(rows, sized.tolist(), strict=True)):
        name = image.get("file_name")
        if not isinstance(name, str) or not name:
            problem = f"has no file_name but {shown(name)}"
        elif _OUTSIDE.search(name):
            problem = f"has file_name {shown(name)}, which leaves the folder of the images"
        elif not has_size:
            sides = f"({shown(image.get('height'))}, {shown(image.get('width'))})"
            problem = f"has height, width {sides}; they must be whole numbers above 0"
        else:
            continue
        yield Mistake("images", row, f"{named(image, row, 'images')} {problem}")


def _annotation_mistakes(
    rows: Sequence[Records], known: Mapping[str, np.ndarray]
) -> Iterator[Mistake]:
    why = {
        "image_id": ", which no image of the file has",
        "category_id": ", which no category of the file has",
        "bbox": "; it must be [x, y, width, height]",
        "iscrowd": "; it must be 0 or 1",
    }
    bad = np.flatnonzero(~np.logical_and.reduce([*known.values()]))
    for row in bad.tolist():
        field = next(field for field in why if not known[field][row])
        noun = named(rows[row], row, "annotations")
        message = f"{noun} has {field} {shown(rows[row].get(field))}{why[field]}"
        yield Mistake("annotations", row, message)


def _pack_categories(columns: _Columns, mistakes: Sequence[Mistake]) -> Categories:
    ids, names = columns["id"].values, columns["name"].values
    order = np.argsort(ids, kind="stable")
    order = order[_without(mistakes, "categories", len(ids))[order]]
    return Categories(ids[order], tuple(names[order].tolist()))


def _pack_images(rows: Sequence[Records], columns: _Columns, mistakes: Sequence[Mistake]) -> Images:
    usable = np.flatnonzero(_without(mistakes, "images", len(rows)))
    sizes = np.stack([columns["height"].values, columns["width"].values], 1)
    names = [rows[row]["file_name"] for row in usable.tolist()]
    return Images(columns["id"].values[usable], names, sizes[usable].astype(np.int32))


def _pack_annotations(
    rows: Sequence[Records],
    columns: _Columns,
    known: Mapping[str, np.ndarray],
    image_ids: np.ndarray,
    category_ids: np.ndarray,
) -> Annotations:
    images = _positions(image_ids, columns["image_id"].values)
    labels = _positions(category_ids, columns["category_id"].values)
    # Those of an image or a category that was left out have no place, and are no mistake.
    usable = np.logical_and.reduce([*known.values(), images >= 0, labels >= 0])
    area = columns["area"]
    return Annotations(
        images=images[usable],
        labels=labels[usable],
        boxes=columns["bbox"].values[usable],
        areas=np.where(area.readable, area.values, np.nan)[usable],
        crowd=columns["iscrowd"].values[usable],
        rows=np.flatnonzero(usable),
        records=rows,
    )


def _without(mistakes: Sequence[Mistake], table: str, count: int) -> np.ndarray:
    """Selects the rows of a table that have no mistake: bool [count]."""
    usable = np.ones(count, bool)
    usable[[mistake.row for mistake in mistakes if mistake.table == table]] = False
    return usable


def _known(column: Column, ids: Column) -> np.ndarray:
    """Finds the values that are ids of another table, usable or not: bool [n]."""
    known = np.unique(ids.values[ids.readable])
    return column.readable & (_positions(known, column.values) >= 0)


def _positions(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Finds each value in ``keys``, which hold every value once: int64 [n], -1 if not there."""
    if not len(keys):
        return np.full(len(values), -1, np.int64)
    order = np.argsort(keys)
    places = np.searchsorted(keys, values, sorter=order)
    positions = order[np.minimum(places, len(keys) - 1)]
    return np.where(keys[positions] == values, positions, -1)
