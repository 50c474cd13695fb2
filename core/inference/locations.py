"""Locations to zoom in on, from attention maps and detections (CornerNet-Lite, section 3).

Locations are float64 [n, 4]: y and x in pixels of the image, the scale of the view about that
point, and a score.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from ..data.transforms import Size
from ..decode.soft_nms import SCORE
from .crops import Crops

NOWHERE = np.zeros((0, 4))

_CLEAR_SCORE = 0.5  # detections above it are worth zooming in on
_LARGEST_VIEW, _LARGEST_ZOOM = 2, 4  # largest scales of a view and of one that follows from it
_SAME_SCALE = (0.8, 1.2)  # ratios of scales at which two locations are alternatives


def attention_peaks(attention: Sequence[Tensor], windows: Sequence[int]) -> list[Tensor]:
    """Sets to 0 all cells that are no maximum of the window around them.

    Args:
        attention: maps [N, 1, h, w], at least 0.
        windows: sides of the windows of each map, in cells, odd.
    """
    highest = [
        F.max_pool2d(map_, window, stride=1, padding=window // 2)
        for map_, window in zip(attention, windows, strict=True)
    ]
    return [map_ * (map_ == top) for map_, top in zip(attention, highest, strict=True)]


def attention_locations(
    peaks: Sequence[np.ndarray],
    crops: Crops,
    image_size: Size,
    *,
    strides: Sequence[int],
    zooms: Sequence[float],
    threshold: float,
    closer_only: bool,
) -> np.ndarray:
    """Turns the cells of attention maps that exceed a threshold into locations.

    No location follows from a view at a scale above 2, and none has a scale above 4.

    Args:
        peaks: maps of peaks float32 [N, 1, h, w], one for each range of sizes, coarse first.
        crops: the N views that the maps belong to.
        image_size: height and width of the image; locations outside it are left out. Along a side
            that is shorter than a cell, a cell that meets the image is enough, and the location is
            moved inside.
        strides: pixels of a view per cell, of each map.
        zooms: scale of the new view as a multiple of the old one's, of each map.
        threshold: attention above which a cell becomes a location.
        closer_only: True: maps that do not zoom in are left out.

    Returns:
        Locations in the order view, map, row, column.
    """
    found, views = [NOWHERE], [np.zeros(0, np.int64)]
    for attention, stride, zoom in zip(peaks, strides, zooms, strict=True):
        if closer_only and zoom <= 1:
            continue
        view, _, row, column = np.nonzero(attention > threshold)
        scale = crops.scales[view]
        cell = np.stack((row, column), 1)
        point = cell * stride / scale[:, None] + crops.offsets[view]
        side = stride / scale[:, None]  # of a cell, in pixels of the image
        kept = (point >= 0) | (point > np.where(image_size < side, -side, 0))
        kept = (kept & (point < image_size)).all(1)
        point = np.maximum(point, 0)
        rows = np.column_stack((point, zoom * scale, attention[view, 0, row, column]))
        kept &= (scale <= _LARGEST_VIEW) & (zoom * scale <= _LARGEST_ZOOM)
        found.append(rows[kept])
        views.append(view[kept])
    return np.concatenate(found)[np.argsort(np.concatenate(views), kind="stable")]


def detection_locations(
    detections: np.ndarray, ranges: Sequence[tuple[int, int]], view_side: int
) -> np.ndarray:
    """Turns clear detections into locations: their centres, each at a size that suits it.

    That size is twice the lower end of the range of sizes in which the detection is, or three
    quarters of the upper end where the range starts at 0, and never more than three quarters of the
    view: 192, 64 and 24 pixels with the published ranges.

    Args:
        detections: float32 [n, 5 or more]: box in pixels of the image, score.
        ranges: longer sides of the objects of each attention map, in pixels, coarse first.
        view_side: side of the views, in pixels.

    Returns:
        Locations with a score of 1, in the order of the detections.
    """
    boxes = detections[detections[:, SCORE] > _CLEAR_SCORE, :4].astype(np.float64)
    sides = (boxes[:, 2:] - boxes[:, :2]).max(1, initial=0)
    boxes, sides = boxes[sides > 0], sides[sides > 0]
    most = view_side * 192 / 255
    wanted = np.array([min(2 * low or 0.75 * high, most) for low, high in ranges])
    inside = sides[:, None] > np.array([low for low, _ in ranges])  # [n, ranges]
    centers = (boxes[:, [1, 0]] + boxes[:, [3, 2]]) / 2  # (y, x)
    return np.column_stack((centers, wanted[inside.argmax(1)] / sides, np.ones(len(sides))))


def suppress_locations(
    locations: np.ndarray, distance: float, limit: int | None = None
) -> np.ndarray:
    """Leaves out locations that lie in the view of a better one.

    The better one of two stays if they are nearer than ``distance`` pixels of its view along x or
    along y, and their scales are similar. Of equal scores the later one is better.

    Args:
        locations: float64 [n, 4].
        distance: distance in pixels of a view.
        limit: largest number of locations to return; None: all.

    Returns:
        Locations, best first.
    """
    left = locations[np.argsort(locations[:, 3], kind="stable")[::-1]]
    chosen = [NOWHERE]
    while len(left) and len(chosen) - 1 != limit:
        best = left[:1]
        chosen.append(best)
        distant = np.abs(left[:, :2] - best[:, :2]).min(1) > distance / best[:, 2]
        ratio = best[:, 2] / left[:, 2]
        similar = (ratio >= _SAME_SCALE[0]) & (ratio <= _SAME_SCALE[1])
        remaining = distant | ~similar
        remaining[0] = False
        left = left[remaining]
    return np.concatenate(chosen)
