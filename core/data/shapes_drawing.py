"""Draws shapes with smooth edges over textured backgrounds, for the generated datasets."""

from typing import NamedTuple

import cv2
import numpy as np

CLASS_NAMES = ("ellipse", "rectangle", "triangle", "star", "ring", "cross")

MIN_CONTRAST = 90  # distance in BGR of a shape from the pixels that it covers
_OVERSAMPLING = 8  # sub-pixels a side, for smooth edges


class DrawnImage(NamedTuple):
    """An image of shapes.

    Attributes:
        image: uint8 [height, width, 3], BGR.
        boxes: float32 [n, 4], (x0, y0, x1, y1) around the full extent of each shape.
        labels: int64 [n], into the class names of the image's kind.
        areas: float32 [n], pixels that each shape covers, hidden parts included.
        visible: float32 [n], the fraction of each shape that no later shape hides.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    visible: np.ndarray


class Cover(NamedTuple):
    """A rasterised shape.

    Attributes:
        top, left: pixels of the image above and left of ``fraction``.
        fraction: float32 [h, w], the fraction of every pixel that the shape covers.
    """

    top: int
    left: int
    fraction: np.ndarray

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the image that ``fraction`` lies on."""
        height, width = self.fraction.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def rasterise(polygons: list[np.ndarray], box: np.ndarray) -> Cover:
    """Rasterises a shape.

    Args:
        polygons: outlines float [k, 2] in the unit square; a point inside two is in a hole.
        box: (x0, y0, x1, y1), to which the unit square is stretched.
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
    coarse = cv2.resize(fine, (int(right - left), int(bottom - top)), interpolation=cv2.INTER_AREA)
    fraction = coarse.reshape(bottom - top, right - left) / np.float32(255)
    return Cover(int(top), int(left), fraction)


def place(sides: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draws where a box of (width, height) lies in an image of (height, width): float64 [4]."""
    start = rng.uniform(0, np.array(size[::-1]) - sides)
    return np.concatenate([start, start + sides])


def outlines(name: str, rng: np.random.Generator) -> list[np.ndarray]:
    """Makes the outlines of a shape, turned a little and stretched to fill the unit square.

    Args:
        name: one of :data:`CLASS_NAMES`.
        rng: draws the angle.
    """
    if name in ("ellipse", "ring"):
        circle = on_circle(np.linspace(0, 2 * np.pi, 96, endpoint=False))
        polygons = [circle, 0.55 * circle] if name == "ring" else [circle]
    elif name == "rectangle":
        polygons = [on_circle(np.pi / 4 + np.arange(4) * np.pi / 2)]
    elif name == "triangle":
        polygons = [on_circle(-np.pi / 2 + np.arange(3) * 2 * np.pi / 3)]
    elif name == "star":
        points = on_circle(-np.pi / 2 + np.arange(10) * np.pi / 5)
        points[1::2] *= 0.42
        polygons = [points]
    else:
        arm, end = 0.32, 1.0
        quarter = np.array([(arm, -end), (arm, -arm), (end, -arm)])
        turns = [quarter @ rotation(turn * np.pi / 2).T for turn in range(4)]
        polygons = [np.concatenate(turns)]
    turned = [polygon @ rotation(rng.uniform(-0.3, 0.3)).T for polygon in polygons]
    low, high = turned[0].min(axis=0), turned[0].max(axis=0)
    return [(polygon - low) / (high - low) for polygon in turned]


def blob(rng: np.random.Generator) -> np.ndarray:
    """Makes the outline of a cell, a circle that is a little dented, in the unit square."""
    angles = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    radius = np.ones_like(angles)
    for waves in (2, 3, 4):
        radius += rng.uniform(0, 0.2 / waves) * np.cos(waves * angles + rng.uniform(0, 2 * np.pi))
    points = on_circle(angles) * radius[:, None]
    low, high = points.min(axis=0), points.max(axis=0)
    return (points - low) / (high - low)


def on_circle(angles: np.ndarray) -> np.ndarray:
    """Returns the points of the unit circle at these angles: float64 [k, 2]."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def rotation(angle: float) -> np.ndarray:
    """Returns the matrix [2, 2] that turns a column (x, y) by an angle in radians."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def paint(
    behind: np.ndarray, rng: np.random.Generator, contrast: float = MIN_CONTRAST
) -> np.ndarray:
    """Draws a colour float32 [3] that stands out from the pixels that a shape covers.

    Of twelve it is the first with enough contrast, or else the one with the most.

    Args:
        behind: float32 [n, 3], those pixels.
        rng: draws the colours.
        contrast: distance in BGR that nine of ten pixels must have.
    """
    colors = rng.uniform(0, 255, (12, 3)).astype(np.float32)
    distances = np.linalg.norm(colors[:, None] - behind[::7], axis=2)
    contrasts = np.quantile(distances, 0.1, axis=1)
    good = contrasts >= contrast
    return colors[np.argmax(good) if good.any() else np.argmax(contrasts)]


def background(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draws a gradient, plain or with clouds, grain or stripes: float32 [height, width, 3].

    Args:
        size: height and width in pixels.
        rng: draws everything.
    """
    height, width = size
    start, end = rng.uniform(20, 235, (2, 3))
    end = start + (end - start) * rng.uniform(0.1, 0.5)
    angle = rng.uniform(0, 2 * np.pi)
    down, across = np.linspace(-0.5, 0.5, height), np.linspace(-0.5, 0.5, width)
    along = down[:, None] * np.sin(angle) + across * np.cos(angle)
    canvas = start + (along[..., None] / np.sqrt(2) + 0.5) * (end - start)
    texture = rng.integers(4)
    if texture == 1:
        canvas += clouds(size, int(rng.integers(3, 8)), rng) * rng.uniform(5, 18)
    elif texture == 2:
        canvas += clouds(size, max(4, max(size) // 3), rng) * rng.uniform(4, 12)
    elif texture == 3:
        waves = np.sin(along * 2 * np.pi * rng.uniform(4, 16) + rng.uniform(0, 2 * np.pi))
        canvas += waves[..., None] * rng.uniform(-18, 18, 3)
    return np.clip(canvas, 0, 255).astype(np.float32)


def clouds(size: tuple[int, int], cells: int, rng: np.random.Generator) -> np.ndarray:
    """Draws smooth noise from ``cells`` x ``cells`` random values: float32 [height, width, 3]."""
    coarse = rng.normal(size=(cells, cells, 3)).astype(np.float32)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
