"""Where the labels of boxes go, so that none hides another."""

import numpy as np

# The cost of a place: the part of the label that lies on other labels, that on other boxes, and the
# place's number in the order of preference. What hides another label is the last resort.
_ON_LABELS, _ON_BOXES, _LATER_PLACE = 10.0, 0.08, 0.02


def place_labels(
    boxes: np.ndarray, sizes: np.ndarray, canvas: tuple[int, int] | tuple[int, ...]
) -> np.ndarray:
    """Chooses a place for each label, one after the other, the first one free to choose.

    A label lies above its box if it can, otherwise inside, below or beside it, always within the
    canvas; where all places are taken it covers as little of the other labels as it can.

    Args:
        boxes: int [n, 4], (x0, y0, x1, y1).
        sizes: int [n, 2], width and height of the labels.
        canvas: height and width.

    Returns:
        int [n, 2], (x, y) of the labels' top left corners.
    """
    height, width = canvas
    places = _candidates(boxes, sizes)  # [n, p, 2]
    limits = np.maximum(np.array([width, height]) - sizes, 0)
    places = np.clip(places, 0, limits[:, None])
    ends = places + sizes[:, None]
    preference = _LATER_PLACE * np.arange(places.shape[1])
    chosen = np.zeros((len(boxes), 4), np.int64)
    for row, (own, size) in enumerate(zip(places, sizes.tolist(), strict=True)):
        area = max(1, size[0] * size[1])
        on_labels = _covered(own, ends[row], chosen[:row]).sum(1) / area
        on_boxes = _covered(own, ends[row], np.delete(boxes, row, 0)).sum(1) / area
        best = int((_ON_LABELS * on_labels + _ON_BOXES * on_boxes + preference).argmin())
        chosen[row, :2], chosen[row, 2:] = own[best], ends[row, best]
    return chosen[:, :2]


def _candidates(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Places for labels at their boxes, the best first: int [n, p, 2]."""
    x0, y0, x1, y1 = boxes.T
    width, height = sizes.T
    right, bottom = x1 - width + 1, y1 - height + 1
    places = [
        *((x0, y0 - height), (right, y0 - height)),  # above
        *((x0, y0), (right, y0)),  # inside, at the top
        *((x0, y1 + 1), (right, y1 + 1)),  # below
        *((x0, bottom), (right, bottom)),  # inside, at the bottom
        *((x1 + 1, y0), (x0 - width, y0), (x1 + 1, bottom), (x0 - width, bottom)),  # beside
        *((x0, y0 - 2 * height), (x0, y0 + height)),  # shifted by a line
    ]
    return np.stack([np.stack(place, 1) for place in places], 1)


def _covered(starts: np.ndarray, ends: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Areas that places [p, 2] to [p, 2] have in common with boxes [k, 4]: int [p, k]."""
    low = np.maximum(starts[:, None], others[:, :2])
    high = np.minimum(ends[:, None], others[:, 2:])
    return np.maximum(high - low, 0).prod(2)
