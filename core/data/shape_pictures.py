"""Pictures of plain shapes over textured backgrounds, with their boxes: the embedded data set.

Everything in a picture follows from the generator it is drawn with.
"""

from typing import NamedTuple

import cv2
import numpy as np

CLASS_NAMES = ("ellipse", "rectangle", "triangle", "star", "ring", "cross")

MIN_SIDE = 10  # pixels of the shorter side of the smallest shape
MAX_SHAPES = 3
EMPTY_SHARE = 0.04  # pictures without any shape
MIN_VISIBLE = 0.75  # share of a shape that later shapes leave visible
MIN_CONTRAST = 90  # distance in BGR from what a shape covers
_OVERSAMPLING = 8  # sub-pixels a side, for smooth edges
_TRIES = 20  # places tried for one shape


class Picture(NamedTuple):
    """A drawn picture.

    Attributes:
        image: uint8 [size, size, 3], BGR.
        boxes: float32 [n, 4], (x0, y0, x1, y1) around the full extent of each shape.
        labels: int64 [n], into :data:`CLASS_NAMES`.
        areas: float32 [n], pixels that each shape covers, hidden parts included.
        visible: float32 [n], the share of each shape that no later shape hides.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    visible: np.ndarray


def draw_picture(size: int, rng: np.random.Generator, mostly_small: bool = False) -> Picture:
    """Draws one picture: a background and up to :data:`MAX_SHAPES` shapes that may overlap.

    Args:
        size: pixels a side, at least twice :data:`MIN_SIDE`.
        rng: draws everything.
        mostly_small: as many shapes of 10 to 20 pixels as of 20 to 40, and so on, as in photos.
    """
    canvas = _background(size, rng)
    count = 0 if rng.random() < EMPTY_SHARE else int(rng.integers(1, MAX_SHAPES + 1))
    boxes, labels = [], []
    covers: list[np.ndarray] = []  # of each shape, the share of every pixel that it covers
    hidden: list[np.ndarray] = []  # of each shape, the share that later shapes hide
    for _ in range(count):
        label = int(rng.integers(len(CLASS_NAMES)))
        polygons = _polygons(CLASS_NAMES[label], rng)
        for _ in range(_TRIES):
            box = _place(size, rng, mostly_small)
            cover = rasterise(polygons, box, size)
            covered = [np.maximum(mask, cover) for mask in hidden]
            if all(_visible(*pair) >= MIN_VISIBLE for pair in zip(covers, covered, strict=True)):
                canvas += cover[..., None] * (_paint(canvas, cover, rng) - canvas)
                hidden = [*covered, np.zeros_like(cover)]
                covers.append(cover)
                boxes.append(box)
                labels.append(label)
                break
    noise = rng.normal(0, rng.uniform(1, 6), canvas.shape)
    return Picture(
        image=np.clip(canvas + noise, 0, 255).astype(np.uint8),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        areas=np.array([cover.sum() for cover in covers], np.float32),
        visible=np.array(list(map(_visible, covers, hidden)), np.float32),
    )


def rasterise(polygons: list[np.ndarray], box: np.ndarray, size: int) -> np.ndarray:
    """float32 [size, size]: the share of every pixel that a shape covers.

    Args:
        polygons: outlines float [k, 2] in the unit square; what lies inside two is a hole.
        box: (x0, y0, x1, y1), where the unit square goes.
        size: pixels a side.
    """
    left, top = np.floor(box[:2]).astype(int)
    right, bottom = np.ceil(box[2:]).astype(int)
    fine = np.zeros(((bottom - top) * _OVERSAMPLING, (right - left) * _OVERSAMPLING), np.uint8)
    fraction_bits = 8
    # fillPoly counts from the centre of a pixel and paints every pixel that an outline touches,
    # half a sub-pixel too much on each side.
    outer = (box - [left, top, left, top]) * _OVERSAMPLING - [0, 0, 1, 1]
    corners = [outer[:2] + polygon * (outer[2:] - outer[:2]) for polygon in polygons]
    fixed = [np.round(corner * 2**fraction_bits).astype(np.int32) for corner in corners]
    cv2.fillPoly(fine, fixed, 255, shift=fraction_bits)
    cover = np.zeros((size, size), np.float32)
    coarse = cv2.resize(fine, (int(right - left), int(bottom - top)), interpolation=cv2.INTER_AREA)
    cover[top:bottom, left:right] = coarse.reshape(bottom - top, right - left) / np.float32(255)
    return cover


def _visible(cover: np.ndarray, hidden: np.ndarray) -> float:
    return float((cover * (1 - hidden)).sum() / cover.sum())


def _place(size: int, rng: np.random.Generator, mostly_small: bool = False) -> np.ndarray:
    """A box of 10 pixels to half the picture a side, somewhere in the picture."""
    shortest, longest = MIN_SIDE, size / 2
    if mostly_small:
        longer = shortest * (longest / shortest) ** rng.random()
    else:
        longer = rng.uniform(shortest, longest)
    shorter = max(shortest, longer * rng.uniform(0.7, 1))
    sides = np.array([longer, shorter] if rng.random() < 0.5 else [shorter, longer])
    start = rng.uniform(0, size - sides)
    return np.concatenate([start, start + sides])


def _polygons(name: str, rng: np.random.Generator) -> list[np.ndarray]:
    """Outlines of a shape turned a little, stretched to fill the unit square."""
    if name in ("ellipse", "ring"):
        circle = _on_circle(np.linspace(0, 2 * np.pi, 96, endpoint=False))
        outlines = [circle, 0.55 * circle] if name == "ring" else [circle]
    elif name == "rectangle":
        outlines = [_on_circle(np.pi / 4 + np.arange(4) * np.pi / 2)]
    elif name == "triangle":
        outlines = [_on_circle(-np.pi / 2 + np.arange(3) * 2 * np.pi / 3)]
    elif name == "star":
        points = _on_circle(-np.pi / 2 + np.arange(10) * np.pi / 5)
        points[1::2] *= 0.42
        outlines = [points]
    else:
        arm, end = 0.32, 1.0
        quarter = np.array([(arm, -end), (arm, -arm), (end, -arm)])
        turns = [quarter @ _rotation(turn * np.pi / 2).T for turn in range(4)]
        outlines = [np.concatenate(turns)]
    turned = [outline @ _rotation(rng.uniform(-0.3, 0.3)).T for outline in outlines]
    low, high = turned[0].min(axis=0), turned[0].max(axis=0)
    return [(outline - low) / (high - low) for outline in turned]


def _on_circle(angles: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _paint(canvas: np.ndarray, cover: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A colour [3] that stands out from what the shape covers: the first good one, or the best."""
    rows, columns = np.nonzero(cover > 0)
    behind = canvas[rows, columns]
    colors = rng.uniform(0, 255, (12, 3)).astype(np.float32)
    distances = np.linalg.norm(colors[:, None] - behind[::7], axis=2)
    contrasts = np.quantile(distances, 0.1, axis=1)
    good = contrasts >= MIN_CONTRAST
    return colors[np.argmax(good) if good.any() else np.argmax(contrasts)]


def _background(size: int, rng: np.random.Generator) -> np.ndarray:
    """float32 [size, size, 3]: a gradient between two colours, clouds, grain or stripes."""
    first, second = rng.uniform(20, 235, (2, 3))
    second = first + (second - first) * rng.uniform(0.1, 0.5)
    across = np.linspace(-0.5, 0.5, size)
    angle = rng.uniform(0, 2 * np.pi)
    along = across[:, None] * np.sin(angle) + across * np.cos(angle)
    canvas = first + (along[..., None] / np.sqrt(2) + 0.5) * (second - first)
    texture = rng.integers(4)
    if texture == 1:
        canvas += _clouds(size, int(rng.integers(3, 8)), rng) * rng.uniform(5, 18)
    elif texture == 2:
        canvas += _clouds(size, max(4, size // 3), rng) * rng.uniform(4, 12)
    elif texture == 3:
        waves = np.sin(along * 2 * np.pi * rng.uniform(4, 16) + rng.uniform(0, 2 * np.pi))
        canvas += waves[..., None] * rng.uniform(-18, 18, 3)
    return np.clip(canvas, 0, 255).astype(np.float32)


def _clouds(size: int, cells: int, rng: np.random.Generator) -> np.ndarray:
    """float32 [size, size, 3]: smooth noise with ``cells`` random values a side."""
    coarse = rng.normal(size=(cells, cells, 3)).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
