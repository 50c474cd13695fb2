"""Animals from the side, of which each looks different, for the generated datasets."""

import numpy as np

from .shapes_drawing import Cover, on_circle, outlines, place, rasterise, rotation


def animal(rng: np.random.Generator) -> list[np.ndarray]:
    """Makes the outlines of an animal from the side: body, neck, head, ears, four legs, tail.

    Returns:
        The parts float64 [k, 2], x to the right and y down, far legs first; the body is 2 wide.
    """
    circle = on_circle(np.linspace(0, 2 * np.pi, 64, endpoint=False))
    deep = rng.uniform(0.4, 0.65)  # half the height of the body
    head = np.array([1.0 + rng.uniform(0.1, 0.4), -deep - rng.uniform(0.0, 0.5)])
    big = rng.uniform(0.3, 0.42)  # radius of the head
    legs, long = [], rng.uniform(0.5, 1.0)
    for hip in (-0.72, 0.55, -0.5, 0.75):
        legs.append(_limb(np.array([hip, deep * 0.5]), rng.uniform(-0.4, 0.4), long, 0.13))
    tail = _limb(np.array([-0.9, -deep * 0.3]), rng.uniform(0.4, 2.6), rng.uniform(0.5, 1), 0.08)
    away = head - [0.6, 0]
    turn, reach = np.arctan2(-away[0], away[1]), np.linalg.norm(away)
    neck = _limb(np.array([0.6, 0]), float(turn), float(reach), 0.24)
    ears = [
        head + big * (np.array([(-0.4, 0), (0.0, -1.5), (0.4, 0)]) @ rotation(turn).T)
        for turn in rng.uniform(-0.2, 0.3) + np.array([-0.5, 0.35])
    ]
    face = head + circle * [big * rng.uniform(1.0, 1.4), big]
    parts = [*legs[:2], tail, *legs[2:], circle * [1, deep], neck, *ears, face]
    turned = rotation(rng.uniform(-0.25, 0.25)).T * [rng.choice((-1, 1)), 1]
    return [part @ turned * [1, rng.uniform(0.95, 1.05)] for part in parts]


def _limb(start: np.ndarray, angle: float, length: float, thick: float) -> np.ndarray:
    """Makes a limb from a point on; angle 0 points down, and turns from there to the left."""
    corners = np.array([(-thick, 0), (thick, 0), (0.7 * thick, length), (-0.7 * thick, length)])
    return start + corners @ rotation(angle).T


def rasterise_parts(
    parts: list[np.ndarray], size: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, Cover, list[Cover]]:
    """Places an animal in an image of a size: its box, its cover, and that of each part."""
    points = np.concatenate(parts)
    low, high = points.min(axis=0), points.max(axis=0)
    box = place(high - low, size, rng)
    covers = []
    for part in parts:
        near, far = part.min(axis=0), part.max(axis=0)
        where = np.concatenate([near, far]) + np.tile(box[:2] - low, 2)
        covers.append(rasterise([(part - near) / (far - near)], where))
    top, left = np.floor(box[1::-1]).astype(int)
    bottom, right = np.ceil(box[:1:-1]).astype(int)
    whole = np.zeros((bottom - top, right - left), np.float32)
    for cover in covers:
        window = Cover(cover.top - top, cover.left - left, cover.fraction).window
        np.maximum(whole[window], cover.fraction, out=whole[window])
    return box, Cover(int(top), int(left), whole), covers


def eye(face: Cover, reach: float, rng: np.random.Generator) -> Cover:
    """Rasterises an eye in the middle of a face; ``reach`` is a fraction of the face's side."""
    height, width = face.fraction.shape
    middle = np.array([face.left + width / 2, face.top + height * 0.4])
    half = np.array([reach, reach]) * min(height, width)
    return rasterise(outlines("ellipse", rng), np.concatenate([middle - half, middle + half]))
