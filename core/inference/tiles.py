"""Detection in large images: tile by tile, and merged.

Neighbouring tiles overlap, so that an object at the border of one tile lies whole in another. What
is no longer or wider than the overlap is found as on a tile of its own.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from ..decode.soft_nms import suppress
from ..structures import NO_DETECTIONS, Detections
from .batches import Found

MARGIN = 4  # pixels; a box that ends so near to the border of its tile may be cut there
SAME_OBJECT = 0.5  # overlap (IoU) of two boxes that are one object, found in two tiles


class ImageDetector(Protocol):
    """What finds objects in images: a detector with its weights, or one on tiles."""

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the classes."""
        ...

    def found(self, images: Iterable[np.ndarray], batch: int = 0) -> Iterator[Found]:
        """Finds the objects of images uint8 [h, w, 3], BGR, in their order.

        It reads ahead of what it yields. The result of an image that is too large for the memory
        says so.
        """
        ...


class TiledDetector:
    """A detector that sees an image tile by tile, each as if it were an image.

    Its own limit, ``db.max_per_image``, applies to a tile, not to what is merged. Tiles are views
    of the image and are read one batch after the other, so the memory that detection takes does not
    grow with the image.

    Args:
        detector: finds the objects of a tile.
        tile: side of a tile, in pixels.
        overlap: smallest part of a tile that its neighbour sees too, 0 to below 1.
    """

    def __init__(self, detector: ImageDetector, tile: int, overlap: float) -> None:
        self.detector, self.tile, self.overlap = detector, tile, overlap
        self.class_names = detector.class_names

    def found(self, images: Iterable[np.ndarray], batch: int = 0) -> Iterator[Found]:
        """Finds the objects of many images; a batch may hold tiles of several.

        Args:
            images: uint8 [h, w, 3], BGR.
            batch: tiles that go through the network together, as for the detector.

        Yields:
            The result of each image, in their order; of one with a tile that is too large for the
            memory, what its tile's says.
        """
        started: deque[_TiledImage] = deque()
        for found in self.detector.found(self._views(images, started), batch):
            started[0].found.append(found)
            if len(started[0].found) == len(started[0].tiles):
                yield started.popleft().result()

    def _views(
        self, images: Iterable[np.ndarray], started: "deque[_TiledImage]"
    ) -> Iterator[np.ndarray]:
        """Cuts images into tiles; appends each image to ``started`` when its first tile is cut."""
        for image in images:
            tiles = plan_tiles((image.shape[0], image.shape[1]), self.tile, self.overlap)
            started.append(_TiledImage(image, tiles))
            for x0, y0, x1, y1 in tiles.tolist():
                yield image[y0:y1, x0:x1]


@dataclass
class _TiledImage:
    """An image of which some tiles int64 [T, 4] are detected."""

    image: np.ndarray
    tiles: np.ndarray
    found: list[Found] = field(default_factory=list)

    def result(self) -> Found:
        """Merges what was found in the tiles."""
        for each in self.found:
            if each.problem is not None:
                return Found(self.image, NO_DETECTIONS, [], f"has a tile that {each.problem}")
        size = self.image.shape[0], self.image.shape[1]
        merged = merge_tiles([each.detections for each in self.found], self.tiles, size)
        return Found(self.image, merged, [])


def plan_tiles(image_size: tuple[int, int], tile: int, overlap: float) -> np.ndarray:
    """Divides an image into tiles that overlap, as few as possible, spread evenly.

    Args:
        image_size: height and width of the image; a side shorter than a tile takes one, as short.
        tile: side of a tile, in pixels.
        overlap: smallest part of a tile that the next one sees too, 0 to below 1.

    Returns:
        int64 [T, 4], (x0, y0, x1, y1) in pixels, row by row; the last of a row and of a column end
        with the image.
    """
    step = max(1, int(tile * (1 - overlap)))
    tops, lefts = (_starts(side, tile, step) for side in image_size)
    height, width = image_size
    return np.array(
        [
            (left, top, min(left + tile, width), min(top + tile, height))
            for top in tops
            for left in lefts
        ]
    )


def _starts(side: int, tile: int, step: int) -> list[int]:
    """Places tiles along a side, at most ``step`` pixels from one to the next."""
    last = max(0, side - tile)
    steps = -(-last // step)
    return [last * number // max(1, steps) for number in range(steps + 1)]


def merge_tiles(
    found: Sequence[Detections], tiles: np.ndarray, image_size: tuple[int, int]
) -> Detections:
    """Merges the detections of an image's tiles.

    1. A box that ends within 4 pixels of the border of its tile, where the image goes on, may be
       cut there. It is dropped where another tile holds it with more room than that: that tile saw
       the object whole, or more of it.
    2. Of boxes of a class that lie where tiles overlap, NMS at an IoU of 0.5 keeps the best. Where
       one tile alone saw an object, what was found stays as it is.

    An object longer than the overlap may be whole in no tile; its parts stay then.

    Args:
        found: detections of each tile, in pixels of the tile.
        tiles: int64 [T, 4], the tiles in pixels of the image.
        image_size: height and width of the image.

    Returns:
        Detections in pixels of the image, best first.
    """
    counts = [len(detections) for detections in found]
    corners = np.repeat(tiles[:, :2], counts, 0).astype(np.float32)  # (x, y) of each box's tile
    boxes = np.concatenate([detections.boxes for detections in found]) + np.tile(corners, 2)
    scores = np.concatenate([detections.scores for detections in found])
    labels = np.concatenate([detections.labels for detections in found])
    room = _room(boxes, tiles, image_size)  # [n, T]
    own = np.repeat(np.arange(len(tiles)), counts)
    clear = room > MARGIN
    kept = clear[np.arange(len(boxes)), own] | ~clear.any(1)
    kept &= ~_is_double(boxes, scores, labels, kept, tiles)
    rows = np.flatnonzero(kept)
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    return replace(found[0], boxes=boxes[rows], scores=scores[rows], labels=labels[rows])


def _room(boxes: np.ndarray, tiles: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Measures the room between boxes and the borders of tiles; the image's own do not count.

    Returns:
        float32 [n, T], pixels; negative where a box goes beyond the tile.
    """
    height, width = image_size
    starts = np.where(tiles[:, :2] == 0, -np.inf, tiles[:, :2])
    stops = np.where(tiles[:, 2:] == (width, height), np.inf, tiles[:, 2:])
    room = np.full((len(boxes), len(tiles)), np.inf, np.float32)
    for axis in (0, 1):
        np.minimum(room, boxes[:, axis, None] - starts[:, axis], out=room)
        np.minimum(room, stops[:, axis] - boxes[:, axis + 2, None], out=room)
    return room


def _is_double(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, kept: np.ndarray, tiles: np.ndarray
) -> np.ndarray:
    """Finds the boxes that NMS drops among those that are kept and meet more than one tile.

    Returns:
        bool [n].
    """
    meets = np.ones((len(boxes), len(tiles)), bool)
    for axis in (0, 1):
        meets &= boxes[:, axis, None] < tiles[:, axis + 2]
        meets &= boxes[:, axis + 2, None] > tiles[:, axis]
    rows = np.flatnonzero(kept & (meets.sum(1) > 1))
    # The columns of corner scores carry the number of the row, exact up to 2^24.
    numbers = np.tile(rows[:, None].astype(np.float32), 2)
    detections = np.concatenate((boxes[rows], scores[rows, None], numbers), 1)
    best, _ = suppress(detections, labels[rows], method="nms", nms_threshold=SAME_OBJECT)
    double = np.zeros(len(boxes), bool)
    double[rows] = True
    double[best[:, -1].astype(np.int64)] = False
    return double
