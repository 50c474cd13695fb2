"""A table of a dataset: for each class its images, its boxes, and their sizes and proportions."""

from typing import NamedTuple

import numpy as np

from .coco import CocoDetection

# COCO's limits between small, medium and large boxes, in square pixels.
_AREA_LIMITS = (32**2, 96**2)
_MOST = (5, 95)  # percent; the proportions of 90 % of the boxes lie between
_LONGEST_NAME = 22
_HEADER = (
    f"  {'class':{_LONGEST_NAME}}{'images':>8}{'boxes':>9}{'small':>8}{'medium':>8}{'large':>8}"
    f"{'side':>7}  width/height (90 %)"
)


class _Boxes(NamedTuple):
    """The boxes of a dataset that are in use: labels [n], numbers of their images [n], sides."""

    labels: np.ndarray
    images: np.ndarray
    sides: np.ndarray  # float64 [n, 2], width and height in pixels


def summary(dataset: CocoDetection) -> str:
    """Makes a table of a dataset, at most 100 characters wide.

    Returns:
        A line about the images; then one for each class and one for all: images, boxes, small,
        medium and large ones, the median of the boxes' sides (the square root of their area) in
        pixels, the median of width by height, and the range that holds 90 % of them.
    """
    counts = dataset.box_counts()
    lines = [
        f"  {len(dataset)} images, {int((counts == 0).sum())} of them without boxes, at most "
        f"{counts.max()} boxes in one; {dataset.repaired} boxes clipped, "
        f"{dataset.dropped + dataset.repeated} dropped",
        _HEADER,
    ]
    boxes = _boxes(dataset)
    rows = [np.flatnonzero(boxes.labels == label) for label in range(len(dataset.class_names))]
    for name, chosen in zip(dataset.class_names, rows, strict=True):
        lines.append(_line(name, _Boxes(*(column[chosen] for column in boxes))))
    return "\n".join([*lines, _line("all", boxes)])


def _boxes(dataset: CocoDetection) -> _Boxes:
    counts = dataset.box_counts()
    images = np.repeat(np.arange(len(dataset)), counts)
    with_boxes = np.flatnonzero(counts).tolist()
    nothing = np.zeros((0, 4)), np.zeros(0, np.int64)
    corners = np.concatenate([nothing[0], *map(dataset.boxes, with_boxes)])
    labels = np.concatenate([nothing[1], *map(dataset.labels, with_boxes)])
    return _Boxes(labels, images, corners[:, 2:] - corners[:, :2])


def _line(name: str, boxes: _Boxes) -> str:
    if len(name) > _LONGEST_NAME:
        name = name[: _LONGEST_NAME - 1] + "…"
    areas = boxes.sides.prod(axis=1)
    sizes = np.bincount(np.searchsorted(_AREA_LIMITS, areas, side="right"), minlength=3)
    numbers = "".join(f"{number:>8}" for number in sizes)
    line = f"  {name:{_LONGEST_NAME}}{len(np.unique(boxes.images)):>8}{len(areas):>9}{numbers}"
    if not len(areas):
        return f"{line}{'-':>7}  -"
    ratios = boxes.sides[:, 0] / boxes.sides[:, 1]
    low, high = np.percentile(ratios, _MOST)
    side = f"{np.median(np.sqrt(areas)):.1f}"
    return f"{line}{side:>7}  {np.median(ratios):.2f} ({low:.2f} to {high:.2f})"
