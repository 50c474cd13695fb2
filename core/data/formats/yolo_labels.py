"""Text files of YOLO: a line an object, ``class cx cy width height`` in fractions of the image."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ...config.errors import UserError
from .source import read_text

# Fractions above it are no rounding and no box that reaches out of its image.
_LARGEST = 2.0


class Label(NamedTuple):
    """An object of a label file.

    Attributes:
        line: number of its line, from 1.
        category: number of its class, from 0.
        box: centre x and y, width and height, in fractions of the image.
        is_polygon: the line is an outline, and the box was put around it.
    """

    line: int
    category: int
    box: tuple[float, float, float, float]
    is_polygon: bool = False


def label_file(image: Path) -> Path:
    """Returns the label file of an image, which need not exist.

    As Ultralytics does it, the last folder ``images`` of the path becomes ``labels``; where there
    is none, or no such folder of labels, the file is beside the image.
    """
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index].lower() == "images":
            parts[index] = "labels" if parts[index] == "images" else "Labels"
            folder = Path(*parts[:-1])
            if folder.is_dir():
                return folder / f"{image.stem}.txt"
            break
    return image.with_suffix(".txt")


def is_label_file(file: Path) -> bool:
    """Tells a label file from other texts: it is empty, or begins with five numbers."""
    try:
        with file.open("rb") as opened:
            first = opened.read(4096).decode("utf-8-sig", "replace").lstrip()
    except OSError:
        return False
    words = first.partition("\n")[0].split()
    return not words or (len(words) >= 5 and all(_number(word) is not None for word in words[:5]))


def read_labels(file: Path, is_pose: bool = False) -> Iterator[Label]:
    """Reads a label file.

    Args:
        file: a file that exists.
        is_pose: key points follow the four numbers of the box; they are passed over. Otherwise more
            numbers are the corners of an outline.

    Raises:
        UserError: the file cannot be read, or a line is not what this module describes; the file
            and the line are named.
    """
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if line.strip():
            try:
                category, box, is_polygon = _parse(line.split(), is_pose)
            except ValueError as error:
                raise UserError(f"{file}:{number}: {error}") from None
            yield Label(number, category, box, is_polygon)


def _parse(words: list[str], is_pose: bool) -> tuple[int, tuple[float, float, float, float], bool]:
    numbers = [_number(word) for word in words]
    if None in numbers:
        raise ValueError(f"{words[numbers.index(None)]!r} is not a number")
    category, *values = [number for number in numbers if number is not None]
    if not (category >= 0 and category.is_integer()):
        raise ValueError(f"class {words[0]} must be a whole number from 0 on")
    if not all(math.isfinite(value) for value in values):
        raise ValueError("a box must have finite numbers")
    if any(abs(value) > _LARGEST for value in (values[:4] if is_pose else values)):
        raise ValueError(
            f"{max(values, key=abs):g} is not a fraction of the image; YOLO's boxes are centre x, "
            "centre y, width and height, each from 0 to 1, not pixels"
        )
    if len(values) == 4 or (is_pose and len(values) > 4):
        x, y, width, height = values[:4]
        if width < 0 or height < 0:
            raise ValueError(f"width {width:g} and height {height:g} must not be below 0")
        return int(category), (x, y, width, height), False
    if len(values) >= 6 and len(values) % 2 == 0:
        return int(category), _around(values), True
    raise ValueError(
        f"there are {len(words)} numbers; a line is class, centre x, centre y, width, height, or "
        "class and the x, y of three or more corners"
    )


def _around(corners: list[float]) -> tuple[float, float, float, float]:
    x0, x1 = min(corners[::2]), max(corners[::2])
    y0, y1 = min(corners[1::2]), max(corners[1::2])
    return (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0


def _number(word: str) -> float | None:
    """Reads a number as files have it; other spellings that Python takes, as 1_0, are none."""
    plain = re.fullmatch(
        r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", word, re.I
    )
    return float(word) if plain else None
