"""Annotations that can be read, but cannot be meant: each kind is one line, with an example."""

from collections import Counter

import numpy as np

from .columns import counted
from .record_values import shown
from .tables import Annotations, Images

_FEWEST_BOXES = 5  # fewer prove nothing about how a file is written
_ROUNDING = 1.0  # pixels by which boxes may reach out of their image

# Of boxes that are written as x0, y0, x1, y1: how many are in order, and how many of them reach out
# of their image when they are taken for x, y, width, height. Where objects are anywhere, half of
# them do so on each axis.
_IN_ORDER, _REACHING_OUT = 0.99, 0.25

_NEARLY_ALL, _FEWEST_FOR_BALANCE = 0.95, 100


def impossible_boxes(images: Images, annotations: Annotations) -> str | None:
    """Describes what is wrong with boxes that cannot be right for their images; None if nothing is.

    They are fractions of the image, or x0, y0, x1, y1, or most of them lie outside.
    """
    boxes = annotations.boxes
    with np.errstate(invalid="ignore"):
        numbers = np.flatnonzero(np.isfinite(boxes).all(1) & (boxes[:, 2:] > 0).all(1))
    if len(numbers) < _FEWEST_BOXES:
        return None
    boxes = boxes[numbers]
    sizes = images.sizes[annotations.images[numbers]][:, ::-1].astype(np.float64)
    start, extent = boxes[:, :2], boxes[:, 2:]

    def example(chosen: np.ndarray) -> str:
        number = int(numbers[np.argmax(chosen)])
        height, width = images.sizes[annotations.images[number]].tolist()
        return f"{annotations.describe(number)} in an image of {width} x {height}"

    fractions = (np.abs(boxes) <= 1).all(1)
    if fractions.mean() > 0.5:
        return (
            f"{fractions.sum()} of {len(boxes)} boxes look like fractions of the image, such as "
            f"{example(fractions)}; multiply x and width by its width, y and height by its height"
        )
    in_order = ((start < extent) & (extent <= sizes + _ROUNDING)).all(1)
    reaching_out = (start + extent > sizes + _ROUNDING).any(1)
    if in_order.mean() >= _IN_ORDER and reaching_out.mean() >= _REACHING_OUT:
        return (
            f"the boxes look like x0, y0, x1, y1: as x, y, width, height, {reaching_out.sum()} of "
            f"{len(boxes)} reach out of their image, such as {example(reaching_out)}; write "
            "x0, y0, x1 - x0, y1 - y0"
        )
    outside = ((start >= sizes) | (start + extent <= 0)).any(1)
    if outside.mean() > 0.5:
        return (
            f"{outside.sum()} of {len(boxes)} boxes lie outside their image, such as "
            f"{example(outside)}; are they of other images, or of another resolution?"
        )
    return None


def repeated_files(images: Images) -> str | None:
    """Describes files that are listed under several ids; None if none is.

    Each of the ids has a part of the objects, and the others of the file then count as background.
    """
    if len(set(images.names)) == len(images.names):
        return None
    counts = Counter(images.names)
    repeated = [name for name, count in counts.items() if count > 1]
    ids = [int(images.ids[row]) for row, name in enumerate(images.names) if name == repeated[0]]
    return (
        f"{counted(len(repeated), 'images')} listed under several ids, such as "
        f"{shown(repeated[0])} under {shown(ids)}; list each file once, with all its boxes"
    )


def dominant_class(names: tuple[str, ...], counts: np.ndarray) -> str | None:
    """Describes a class that has nearly all boxes; None if there is none.

    Args:
        names: C names of the classes.
        counts: int64 [C], number of boxes of each.
    """
    total = int(counts.sum())
    if len(names) < 2 or total < _FEWEST_FOR_BALANCE or counts.max() < _NEARLY_ALL * total:
        return None
    return (
        f"{counts.max()} of {total} boxes are of class {shown(names[counts.argmax()])}; the others "
        "may be too rare to be learned"
    )
