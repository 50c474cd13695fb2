"""Sizes and boxes of an annotation file that are made to agree with its images.

The pixels decide: sizes that differ are replaced, before boxes are clipped to them.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..config.errors import UserError
from .image_sizes import Header, read_header
from .tables import Images, Tables
from .unreadable import max_unreadable

_ALL, _THREADS, _CHUNK = 20_000, 8, 256
_SLACK, _SLACK_PIXELS = 0.01, 2.0  # by which a box may cross the border and still fit


@dataclass
class SizeReport:
    """What :func:`reconcile_sizes` did.

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


def reconcile_sizes(
    tables: Tables, image_dir: Path, annotation_file: Path
) -> tuple[Tables, SizeReport]:
    """Replaces sizes by those of the images, and turns boxes with images if necessary.

    Boxes are turned where they fit an image only as it was before the rotation that its EXIF data
    asks for. Of more than 20,000 images, so many are looked at first, evenly spread, and all only
    if one of those differs.

    Args:
        tables: images and boxes; those of an annotation file, for example.
        image_dir: folder of the images; those that cannot be read keep their size.
        annotation_file: named in messages.

    Returns:
        The tables, those that were given if all sizes agree.

    Raises:
        UserError: boxes of more than 1 % of the images are those of images of another resolution,
            or some boxes are turned as the EXIF data says and some are not.
    """
    images = tables.images
    paths = [image_dir / name for name in images.names]
    if len(paths) > _ALL:
        sample = np.linspace(0, len(paths) - 1, _ALL).astype(int)
        some = _read_headers([paths[index] for index in sample.tolist()])
        if not _differing(images.sizes[sample], some):
            return tables, SizeReport(_ALL)
    headers = _read_headers(paths)
    differing = _differing(images.sizes, headers)
    report = SizeReport(len(paths), len(differing))
    if not differing:
        return tables, report
    sizes, boxes = images.sizes.copy(), tables.annotations.boxes.copy()
    rows = _rows_by_image(tables)
    first = next(iter(differing))
    example = _example(images, first, differing[first])
    for number, header in _to_turn(sizes, headers, boxes, rows, annotation_file).items():
        for row in rows[number]:
            boxes[row] = turn_box(boxes[row], header)
        sizes[number] = header.size
        report.turned += 1
    wrong = [
        number
        for number, header in differing.items()
        if _fit(boxes[rows[number]], sizes[number]) and not _fit(boxes[rows[number]], header.size)
    ]
    if len(wrong) > max_unreadable(len(paths)):
        problem = _wrong_boxes(len(wrong), images, wrong[0], differing[wrong[0]])
        raise UserError(f"{annotation_file}: {problem}")
    for number, header in differing.items():
        sizes[number] = header.size
    report.clipped = len(wrong)
    report.note = _note(report, example)
    images = images._replace(sizes=sizes)
    annotations = tables.annotations._replace(boxes=boxes)
    return replace(tables, images=images, annotations=annotations), report


def turn_box(box: Sequence[float] | np.ndarray, header: Header) -> list[float]:
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


def _differing(sizes: np.ndarray, headers: Sequence[Header | None]) -> dict[int, Header]:
    """Finds the images whose size [N, 2] is not that of their file."""
    return {
        number: header
        for number, (size, header) in enumerate(zip(sizes.tolist(), headers, strict=True))
        if header is not None and tuple(size) != header.size
    }


def _rows_by_image(tables: Tables) -> list[np.ndarray]:
    """Lists the rows of each image's boxes."""
    owners = tables.annotations.images
    ends = np.cumsum(np.bincount(owners, minlength=len(tables.images.names)))
    return np.split(np.argsort(owners, kind="stable"), ends[:-1])


def _fit(boxes: np.ndarray, size: Sequence[int]) -> bool:
    """True if no box [n, 4] reaches far beyond the right or the lower edge of an image."""
    height, width = ((1 + _SLACK) * side + _SLACK_PIXELS for side in size)
    with np.errstate(invalid="ignore", over="ignore"):
        return not (boxes[:, :2] + boxes[:, 2:] > (width, height)).any()


def _to_turn(
    sizes: np.ndarray,
    headers: Sequence[Header | None],
    boxes: np.ndarray,
    rows: Sequence[np.ndarray],
    annotation_file: Path,
) -> dict[int, Header]:
    """Finds the images whose boxes were drawn before the EXIF rotation: all such images or none."""
    known = {number: header for number, header in enumerate(headers) if header is not None}
    sideways = {number: header for number, header in known.items() if header.orientation > 4}
    stored = {n: h for n, h in sideways.items() if tuple(sizes[n]) == (h.height, h.width) != h.size}
    fits = {
        n: (_fit(boxes[rows[n]], sizes[n]), _fit(boxes[rows[n]], h.size)) for n, h in stored.items()
    }
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


def _wrong_boxes(count: int, images: Images, number: int, header: Header) -> str:
    """Describes boxes that fit the sizes of the file and not the images; and what to do."""
    vertical, horizontal = images.sizes[number] / header.size
    hint = "correct the sizes and the boxes, or use the images that the boxes were drawn on"
    ratio = ""
    if math.isclose(vertical, horizontal, rel_tol=0.02):
        ratio = f", {vertical:.4g} times as large"
        hint = f"use images of that size, or divide the boxes by {vertical:.4g}"
    return (
        f"the boxes of {count} images fit the sizes in the file and not the images: "
        f"{_example(images, number, header)}{ratio}; {hint}"
    )


def _example(images: Images, number: int, header: Header) -> str:
    (height, width), (given_height, given_width) = header.size, images.sizes[number]
    return (
        f"{images.names[number]} has {width} x {height} pixels, the file says "
        f"{given_width} x {given_height}"
    )


def _note(report: SizeReport, example: str) -> str:
    turned = f", the boxes of {report.turned} images turned with them" if report.turned else ""
    clipped = f", the boxes of {report.clipped} clipped to their image" if report.clipped else ""
    return (
        f"{report.replaced} of {report.checked} sizes replaced by those of the images"
        f"{turned}{clipped}; the first: {example}"
    )
