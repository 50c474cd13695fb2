"""Scenes of several objects: laying one over another, what stays visible, and the photo of them."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from .shapes_drawing import Cover, DrawnImage


class PlacedObject(NamedTuple):
    """An object in an image: its box float64 [4], label, cover, and what later ones hide of it."""

    box: np.ndarray
    label: int
    cover: Cover
    hidden: np.ndarray


def leaves_visible(drawn: Sequence[PlacedObject], cover: Cover, least: float) -> bool:
    """Whether each object stays visible, to the fraction ``least``, under one more cover."""
    for other in drawn:
        inner, outer = _common(other.cover, cover)
        covered = np.maximum(other.hidden[inner], cover.fraction[outer])
        if covered.any():
            seen = other.cover.fraction * (1 - other.hidden)
            lost = other.cover.fraction[inner] * (covered - other.hidden[inner])
            if seen.sum() - lost.sum() < least * other.cover.fraction.sum():
                return False
    return True


def append_(drawn: list[PlacedObject], box: np.ndarray, label: int, cover: Cover) -> None:
    """Appends an object, and notes what it hides of the others."""
    hide_(drawn, cover)
    drawn.append(PlacedObject(box, label, cover, np.zeros_like(cover.fraction)))


def hide_(drawn: Sequence[PlacedObject], cover: Cover) -> None:
    """Notes what one more cover hides of the objects."""
    for other in drawn:
        inner, outer = _common(other.cover, cover)
        other.hidden[inner] = np.maximum(other.hidden[inner], cover.fraction[outer])


def _common(one: Cover, two: Cover) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Finds the pixels that two windows have in common, counted in each; none may be left."""
    pairs = []
    for mine, others in zip(one.window, two.window, strict=True):
        low, high = max(mine.start, others.start), min(mine.stop, others.stop)
        high = max(low, high)
        pairs.append([slice(low - each.start, high - each.start) for each in (mine, others)])
    (rows, other_rows), (columns, other_columns) = pairs
    return (rows, columns), (other_rows, other_columns)


def blend_(canvas: np.ndarray, cover: Cover, color: np.ndarray | np.float32, alpha: float) -> None:
    """Lays a colour, or a texture float32 [h, w, 3], over the pixels that a shape covers."""
    behind = canvas[cover.window]
    behind += alpha * cover.fraction[..., None] * (color - behind)


def photograph(
    canvas: np.ndarray, drawn: Sequence[PlacedObject], rng: np.random.Generator
) -> DrawnImage:
    """Lights, blurs and adds noise, and collects the objects."""
    height, width = canvas.shape[:2]
    down, across = np.linspace(-0.5, 0.5, height), np.linspace(-0.5, 0.5, width)
    angle = rng.uniform(0, 2 * np.pi)
    along = down[:, None] * np.sin(angle) + across * np.cos(angle)
    canvas = canvas * (rng.uniform(0.75, 1.1) + rng.uniform(0, 0.4) * along[..., None])
    canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.3, 1.0))
    noise = rng.normal(0, rng.uniform(2, 9), canvas.shape)
    covers = [each.cover.fraction for each in drawn]
    seen = [float((each.cover.fraction * (1 - each.hidden)).sum()) for each in drawn]
    areas = np.array([cover.sum() for cover in covers], np.float32)
    return DrawnImage(
        image=np.clip(canvas + noise, 0, 255).astype(np.uint8),
        boxes=np.array([each.box for each in drawn], np.float32).reshape(-1, 4),
        labels=np.array([each.label for each in drawn], np.int64),
        areas=areas,
        visible=np.array(seen, np.float32) / areas,
    )
