"""COCO annotation files as JSON: reading them, and finding mistakes in their records."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from ..config.errors import UserError

Records = Mapping[str, Any]

# A path that starts at a root or a drive, or leaves its folder by .., on any system.
_OUTSIDE = re.compile(r"^[/\\]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)|\0")
_INT64 = 2**63


class Mistake(NamedTuple):
    """A record that cannot be used: its table and row in the file, and a message saying why."""

    table: str
    row: int
    message: str


def read_records(annotation_file: Path) -> dict[str, Any]:
    """Reads a COCO annotation file without its segmentations, which fill most of it.

    Returns:
        ``images`` and ``categories``, lists of dicts; ``annotations``, a list of dicts, or None for
        a file without annotations (a test split).

    Raises:
        UserError: the file is missing, not JSON (with line and column), or not in COCO's format.
    """
    try:
        text = annotation_file.read_bytes().decode("utf-8-sig")
        content = json.loads(text, object_hook=_without_segmentation)
    except FileNotFoundError:
        raise UserError(f"there is no annotation file {annotation_file}") from None
    except OSError as error:
        raise UserError(f"{annotation_file}: cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{annotation_file}:{error.lineno}:{error.colno}: not JSON: {error.msg}"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{annotation_file}: not UTF-8 text: {error.reason}") from None
    except RecursionError:
        raise UserError(f"{annotation_file}: nested too deeply for a COCO file") from None
    if not isinstance(content, dict) or "images" not in content:
        raise UserError(f'{annotation_file}: not a COCO file: there is no "images" at its top')
    records = {
        "images": content["images"],
        "annotations": content.get("annotations"),
        "categories": content.get("categories", []),
    }
    for table, rows in records.items():
        is_table = isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
        if not is_table and not (table == "annotations" and rows is None):
            raise UserError(f'{annotation_file}: not a COCO file: "{table}" must list objects')
    return records


def find_mistakes(records: Records) -> Iterator[Mistake]:
    """Finds the records that cannot be used, in the order of the file.

    Boxes that reach out of their image are not among them: packing clips or drops those.
    """
    categories, images = records["categories"], records["images"]
    yield from _identity_mistakes("categories", "category", categories)
    yield from _category_name_mistakes(categories)
    yield from _identity_mistakes("images", "image", images)
    yield from _image_mistakes(images)
    known_categories, known_images = _identities(categories), _identities(images)
    for row, annotation in enumerate(records["annotations"] or ()):
        image, category = annotation.get("image_id"), annotation.get("category_id")
        if not _is_integer(image) or image not in known_images:
            problem = f"has image_id {image!r}, which no image of the file has"
        elif not _is_integer(category) or category not in known_categories:
            problem = f"has category_id {category!r}, which no category of the file has"
        elif not _is_box(annotation.get("bbox")):
            problem = f"has bbox {annotation.get('bbox')!r}; it must be [x, y, width, height]"
        else:
            continue
        yield Mistake("annotations", row, f"annotation {annotation.get('id', row)} {problem}")


def without_mistakes(records: Records, mistakes: Sequence[Mistake]) -> dict[str, Any]:
    """Selects the records that have no mistake and whose image and category have none."""
    bad = {(mistake.table, mistake.row) for mistake in mistakes}
    images, categories = (
        [record for row, record in enumerate(records[table]) if (table, row) not in bad]
        for table in ("images", "categories")
    )
    image_ids = {image["id"] for image in images}
    category_ids = {category["id"] for category in categories}
    annotations = None
    if records["annotations"] is not None:
        annotations = [
            annotation
            for row, annotation in enumerate(records["annotations"])
            if ("annotations", row) not in bad
            and annotation["image_id"] in image_ids
            and annotation["category_id"] in category_ids
        ]
    return {"images": images, "annotations": annotations, "categories": categories}


def _without_segmentation(record: dict[str, Any]) -> dict[str, Any]:
    record.pop("segmentation", None)
    return record


def _identities(rows: Sequence[Records]) -> set[int]:
    return {row["id"] for row in rows if _is_integer(row.get("id"))}


def _identity_mistakes(table: str, noun: str, rows: Sequence[Records]) -> Iterator[Mistake]:
    seen: set[int] = set()
    for row, record in enumerate(rows):
        identity = record.get("id")
        if not _is_integer(identity):
            yield Mistake(table, row, f"{noun} number {row} has id {identity!r}, not an integer")
        elif identity in seen:
            yield Mistake(table, row, f"{noun} id {identity} occurs twice")
        else:
            seen.add(identity)


def _category_name_mistakes(categories: Sequence[Records]) -> Iterator[Mistake]:
    seen: set[str] = set()
    for row, category in enumerate(categories):
        name = category.get("name")
        if not isinstance(name, str) or not name:
            yield Mistake("categories", row, f"category {category.get('id')} has no name")
        elif name in seen:
            yield Mistake("categories", row, f"two categories are named {name!r}")
        else:
            seen.add(name)


def _image_mistakes(images: Sequence[Records]) -> Iterator[Mistake]:
    for row, image in enumerate(images):
        name, sides = image.get("file_name"), (image.get("height"), image.get("width"))
        if not isinstance(name, str) or not name:
            problem = "has no file_name"
        elif _OUTSIDE.search(name):
            problem = f"has file_name {name!r}, which leaves the folder of the images"
        elif not all(_is_integer(side) and 0 < side < 2**31 for side in sides):
            problem = f"has height, width {sides}; they must be whole numbers above 0"
        else:
            continue
        yield Mistake("images", row, f"image {image.get('id')} {problem}")


def _is_integer(value: Any) -> TypeGuard[int]:
    return type(value) is int and -_INT64 <= value < _INT64


def _is_box(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(type(side) is float or (type(side) is int and _fits_float(side)) for side in value)
    )


def _fits_float(value: int) -> bool:
    return -(2**1000) < value < 2**1000
