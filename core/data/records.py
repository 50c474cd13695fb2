"""COCO annotation files as JSON: reading their records."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config.errors import UserError

Records = Mapping[str, Any]


def read_records(annotation_file: Path) -> dict[str, Any]:
    """Reads a COCO annotation file without its segmentations, which fill most of it.

    Returns:
        As :func:`parse_records`.

    Raises:
        UserError: the file is missing, or as :func:`parse_records`.
    """
    return parse_records(_read(annotation_file), annotation_file)


def parse_records(data: bytes, annotation_file: Path) -> dict[str, Any]:
    """Parses the content of a COCO annotation file.

    Args:
        data: the content, JSON in UTF-8.
        annotation_file: the file, for messages.

    Returns:
        ``images`` and ``categories``, lists of dicts; ``annotations``, a list of dicts, or None for
        a file without annotations (a test split). What the dicts hold is not checked.

    Raises:
        UserError: not JSON (with line and column), or not in COCO's format.
    """
    try:
        text = data.decode("utf-8-sig")
        del data  # for COCO half a gigabyte
        content = json.loads(text, object_hook=_without_segmentation)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{annotation_file}:{error.lineno}:{error.colno}: not JSON: {error.msg}"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{annotation_file}: not UTF-8 text: {error.reason}") from None
    except RecursionError:
        raise UserError(f"{annotation_file}: nested too deeply for a COCO file") from None
    except ValueError:  # Python reads no integer of more than some thousand digits
        raise UserError(f"{annotation_file}: holds a number with thousands of digits") from None
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


def _read(annotation_file: Path) -> bytes:
    try:
        return annotation_file.read_bytes()
    except FileNotFoundError:
        raise UserError(f"there is no annotation file {annotation_file}") from None
    except OSError as error:
        raise UserError(f"{annotation_file}: cannot be read: {error.strerror}") from None


def _without_segmentation(record: dict[str, Any]) -> dict[str, Any]:
    record.pop("segmentation", None)
    return record
