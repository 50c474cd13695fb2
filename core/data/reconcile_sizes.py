"""Sizes and boxes of an annotation file that are made to agree with its images.

The pixels decide: sizes that differ are replaced, before boxes are clipped to them.
"""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config.errors import UserError
from .image_sizes import Header, read_header
from .unreadable import max_unreadable

_ALL, _THREADS, _CHUNK = 20_000, 8, 256
_SLACK, _SLACK_PIXELS = 0.01, 2.0  # by which a box may cross the border and still fit


@dataclass
class SizeReport:
    """What :func:`reconcile_sizes_` did.

    Attributes:
        checked: number of images that were looked at.
        replaced: number of sizes that were replaced.
        turned: number of images whose boxes were turned with their image.
        clipped: number of images whose boxes fit the replaced size and not the image.
        note: one line about it; empty if all sizes agree.
    """

    checked: int = 0
    replaced: int = 0
    turned: int = 0
    clipped: int = 0
    note: str = ""


def reconcile_sizes_(records: dict[str, Any], image_dir: Path, annotation_file: Path) -> SizeReport:
    """Replaces sizes in records by those of the images, and turns boxes with images if necessary.

    Boxes are turned where they fit an image only as it was before the rotation that its EXIF data
    asks for. Of more than 20,000 images, so many are looked at first, evenly spread, and all only
    if one of those differs.

    Args:
        records: ``images`` and ``annotations`` as :func:`core.data.records.read_records` gives
            them, without mistakes; changed in place.
        image_dir: folder of the images; those that cannot be read keep their size.
        annotation_file: named in messages.

    Raises:
        UserError: boxes of more than 1 % of the images are those of images of another resolution,
            or some boxes are turned as the EXIF data says and some are not.
    """
    rows = records["images"]
    paths = [image_dir / row["file_name"] for row in rows]
    if len(rows) > _ALL:
        sample = np.linspace(0, len(rows) - 1, _ALL).astype(int).tolist()
        some = [rows[index] for index in sample]
        if not _differing(some, _read_headers([paths[index] for index in sample])):
            return SizeReport(_ALL)
    headers = _read_headers(paths)
    differing = _differing(rows, headers)
    report = SizeReport(len(rows), len(differing))
    if not differing:
        return report
    boxes, first = _boxes_by_image(records), next(iter(differing))
    example = _example(rows[first], differing[first])
    sizes = [(row["height"], row["width"]) for row in rows]
    for number, header in _to_turn(sizes, headers, boxes, annotation_file).items():
        for box in boxes[number]:
            box[:] = turn_box(box, header)
        sizes[number] = header.size
        report.turned += 1
    wrong = [
        number
        for number, header in differing.items()
        if _fit(boxes[number], sizes[number]) and not _fit(boxes[number], header.size)
    ]
    if len(wrong) > max_unreadable(len(rows)):
        problem = _wrong_boxes(len(wrong), rows[wrong[0]], differing[wrong[0]])
        raise UserError(f"{annotation_file}: {problem}")
    for number, header in differing.items():
        rows[number]["height"], rows[number]["width"] = header.size
    report.clipped = len(wrong)
    report.note = _note(report, example)
    return report


def turn_box(box: Sequence[float], header: Header) -> list[float]:
    """Turns a box [x, y, width, height] with its image, from the stored one to the decoded one."""
    x, y, width, height = box
    if header.orientation in (2, 3, 7, 8):  # mirrored from left to right, perhaps among others
        x = header.width - x - width
    if header.orientation in (3, 4, 6, 7):  # upside down
        y = header.height - y - height
    return [y, x, height, width] if header.orientation > 4 else [x, y, width, height]


def _read_headers(paths: Sequence[Path]) -> list[Header | None]:
    """Reads headers in threads, which wait for the disk together."""

    def read(chunk: Sequence[Path]) -> list[Header | None]:
        return [read_header(path) for path in chunk]

    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return [header for part in pool.map(read, chunks) for header in part]


def _differing(
    rows: Sequence[Mapping[str, Any]], headers: Sequence[Header | None]
) -> dict[int, Header]:
    """Finds the rows whose size is not that of their image."""
    return {
        number: header
        for number, (row, header) in enumerate(zip(rows, headers, strict=True))
        if header is not None and (row["height"], row["width"]) != header.size
    }


def _boxes_by_image(records: Mapping[str, Any]) -> list[list[list[float]]]:
    """Lists the boxes of each image, which are those of the records themselves."""
    by_id: dict[int, list[list[float]]] = {row["id"]: [] for row in records["images"]}
    for annotation in records["annotations"] or ():
        by_id[annotation["image_id"]].append(annotation["bbox"])
    return list(by_id.values())


def _fit(boxes: Sequence[Sequence[float]], size: tuple[int, int]) -> bool:
    """True if no box reaches far beyond the right or the lower edge of an image of a size."""
    height, width = ((1 + _SLACK) * side + _SLACK_PIXELS for side in size)
    return not any(x + w > width or y + h > height for x, y, w, h in boxes)


def _to_turn(
    sizes: Sequence[tuple[int, int]],
    headers: Sequence[Header | None],
    boxes: Sequence[Sequence[Sequence[float]]],
    annotation_file: Path,
) -> dict[int, Header]:
    """Finds the images whose boxes were drawn before the EXIF rotation: all such images or none."""
    known = {number: header for number, header in enumerate(headers) if header is not None}
    sideways = {number: header for number, header in known.items() if header.orientation > 4}
    stored = {n: h for n, h in sideways.items() if sizes[n] == (h.height, h.width) != h.size}
    fits = {n: (_fit(boxes[n], sizes[n]), _fit(boxes[n], h.size)) for n, h in stored.items()}
    before = list(fits.values()).count((True, False))
    after = list(fits.values()).count((False, True))
    if before and after:
        raise UserError(
            f"{annotation_file}: the boxes of {before} images fit them only before the rotation "
            f"that their EXIF data asks for, those of {after} only after it; rotate the image "
            "files, and correct the boxes"
        )
    if not before:
        return {}
    if len(stored) < len(sideways):  # of others the sizes, and so the boxes, are of the upright
        return stored
    return {number: header for number, header in known.items() if header.orientation > 1}


def _wrong_boxes(count: int, row: Mapping[str, Any], header: Header) -> str:
    """Describes boxes that fit the sizes of the records and not the images; and what to do."""
    vertical, horizontal = row["height"] / header.size[0], row["width"] / header.size[1]
    hint = "correct the sizes and the boxes, or use the images that the boxes were drawn on"
    ratio = ""
    if math.isclose(vertical, horizontal, rel_tol=0.02):
        ratio = f", {vertical:.4g} times as large"
        hint = f"use images of that size, or divide the boxes by {vertical:.4g}"
    return (
        f"the boxes of {count} images fit the sizes in the file and not the images: "
        f"{_example(row, header)}{ratio}; {hint}"
    )


def _example(row: Mapping[str, Any], header: Header) -> str:
    height, width = header.size
    return (
        f"{row['file_name']} has {width} x {height} pixels, the file says "
        f"{row['width']} x {row['height']}"
    )


def _note(report: SizeReport, example: str) -> str:
    turned = f", the boxes of {report.turned} images turned with them" if report.turned else ""
    clipped = f", the boxes of {report.clipped} clipped to their image" if report.clipped else ""
    return (
        f"{report.replaced} of {report.checked} sizes replaced by those of the images"
        f"{turned}{clipped}; the first: {example}"
    )
