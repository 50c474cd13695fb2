"""Dividing a dataset without splits into images to train and images to validate with."""

import hashlib
import re
import unicodedata
from typing import Any

from .records import Records


def divide(records: Records, share: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divides records by the names of their images, without their folders.

    A hash of its name decides for each image, whatever the others are: when images are added, the
    old ones stay where they are. At least one is on each side; a single one is on both.

    Args:
        records: as :func:`~.records.read_records` gives them.
        share: fraction of the images to validate with, above 0 and below 1.

    Returns:
        Records to train with, and records to validate with.
    """
    rows = records["images"]
    positions = [_position(str(row.get("file_name"))) for row in rows]
    validates = [position < share for position in positions]
    order = sorted(range(len(rows)), key=positions.__getitem__)
    if rows and not any(validates):
        validates[order[0]] = True
    trains = [not chosen for chosen in validates]
    if rows and not any(trains):
        trains[order[-1]] = True
        validates[order[-1]] = len(rows) == 1
    return _part(records, trains), _part(records, validates)


def _position(name: str) -> float:
    """Places a name between 0 and 1, evenly over all names."""
    name = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    data = name.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(data).digest()[:6], "big") / 2**48


def _part(records: Records, chosen: list[bool]) -> dict[str, Any]:
    images, others = list[Any](), set[str]()
    for row, is_chosen in zip(records["images"], chosen, strict=True):
        if is_chosen:
            images.append(row)
        else:
            others.add(_key(row.get("id")))
    annotations = records["annotations"]
    if annotations is not None:
        others -= {_key(row.get("id")) for row in images}
        # One of an unknown image stays on both sides, and is found there as a mistake.
        annotations = [row for row in annotations if _key(row.get("image_id")) not in others]
    return {**records, "images": images, "annotations": annotations}


def _key(identity: object) -> str:
    """Writes an id so that 7, 7.0 and "7" are the same."""
    return str(identity).strip().removesuffix(".0")
