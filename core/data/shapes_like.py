"""Three kinds of hard images that have the sizes of photos, for datasets of a few hundred.

- ``small``: small objects of six classes on a cluttered background;
- ``crowded``: 20 to 60 translucent cells that look the same, touch and overlap; a few are dark;
- ``large``: one or two animals that fill much of an image, among shapes that resemble their parts.

All are blurred, lit from one side and noisy, as photos are. Every object lies wholly inside.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from .shapes_drawing import (
    CLASS_NAMES,
    Cover,
    DrawnImage,
    background,
    clouds,
    on_circle,
    outlines,
    paint,
    place,
    rasterise,
    rotation,
)

PHOTO = (480, 640)  # height and width of small and crowded images
SMALL_SIDES = (10, 40)  # pixels of the longer side of most small objects
CROWD = (20, 60)  # objects in a crowded image
LARGE_SIDES = (0.3, 0.9)  # longer extent of a large object, as a fraction of the image's side

_EMPTY_SHARE = 0.04  # fraction of small and large images without any object
_TRIES = 30  # places tried for an object


class Kind(NamedTuple):
    """A kind of images.

    Attributes:
        class_names: names of the classes, in the order of the labels.
        draw: draws an image from random numbers.
    """

    class_names: tuple[str, ...]
    draw: Callable[[np.random.Generator], DrawnImage]


class _Drawn(NamedTuple):
    """An object in an image: its box float64 [4], label, cover, and what later ones hide of it."""

    box: np.ndarray
    label: int
    cover: Cover
    hidden: np.ndarray


def draw_small(rng: np.random.Generator) -> DrawnImage:
    """Draws 3 to 16 shapes of :data:`CLASS_NAMES`, nine of ten of them in :data:`SMALL_SIDES`."""
    canvas = background(PHOTO, rng)
    _add_clutter_(canvas, rng)
    drawn: list[_Drawn] = []
    count = 0 if rng.random() < _EMPTY_SHARE else int(rng.integers(3, 17))
    for _ in range(count):
        label = int(rng.integers(len(CLASS_NAMES)))
        polygons = outlines(CLASS_NAMES[label], rng)
        low, high = SMALL_SIDES if rng.random() < 0.9 else (SMALL_SIDES[1], 2 * SMALL_SIDES[1])
        longer = low * (high / low) ** rng.random()
        sides = np.array([longer, max(SMALL_SIDES[0], longer * rng.uniform(0.7, 1))])
        sides = sides[:: int(rng.choice((-1, 1)))]
        for _ in range(_TRIES):
            box = place(sides, PHOTO, rng)
            cover = rasterise(polygons, box)
            if _leaves_visible(drawn, cover, 0.75):
                color = paint(canvas[cover.window][cover.fraction > 0], rng, contrast=60)
                fill = color + rng.normal(0, 4) * clouds(cover.fraction.shape, 4, rng)
                _blend_(canvas, cover, fill, rng.uniform(0.7, 1))
                _append_(drawn, box, label, cover)
                break
    return _photograph(canvas, drawn, rng)


def draw_crowded(rng: np.random.Generator) -> DrawnImage:
    """Draws cells, as many as :data:`CROWD` says; up to three of them are of the dark class."""
    canvas = rng.uniform(170, 225, 3) + clouds(PHOTO, 6, rng) * rng.uniform(2, 8)
    canvas = canvas.astype(np.float32)
    color = canvas.mean((0, 1)) - rng.uniform(25, 65, 3)
    for _ in range(int(rng.integers(5, 25))):  # debris, which is no object
        cover = rasterise([_blob(rng)], place(rng.uniform(6, 24, 2), PHOTO, rng))
        _blend_(canvas, cover, color + rng.normal(0, 15, 3), rng.uniform(0.2, 0.6))
    count = int(rng.integers(CROWD[0], CROWD[1] - 3 + 1))
    longest = min(84.0, np.sqrt(0.75 * PHOTO[0] * PHOTO[1] / count))
    side = rng.uniform(0.6 * longest, longest)
    labels = [0] * count + [1] * int(rng.integers(4))
    drawn: list[_Drawn] = []
    for label in rng.permutation(labels).tolist():
        polygons = [_blob(rng)]
        sides = side * (1.25 if label else 1) * rng.uniform(0.8, 1.2, 2)
        box, cover = _place_in_crowd(polygons, sides, drawn, rng)
        fill = color + rng.normal(0, 6, 3)
        _blend_(canvas, cover, fill, rng.uniform(0.35, 0.6))
        middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
        inner = 0.6 if label else 0.5
        nucleus = rasterise(
            polygons, np.concatenate([middle - inner * half, middle + inner * half])
        )
        shade = fill - rng.uniform(40, 70, 3) if label else canvas[cover.window].mean((0, 1)) + 30
        _blend_(canvas, nucleus, shade, 0.8 if label else 0.3)
        _append_(drawn, box, label, cover)
    return _photograph(canvas, drawn, rng)


def draw_large(rng: np.random.Generator) -> DrawnImage:
    """Draws one or two animals, each as long as :data:`LARGE_SIDES` says, among other shapes."""
    longer = int(rng.integers(360, 801))
    shorter = round(longer / np.exp(rng.uniform(0, np.log(16 / 9))))
    size = (longer, shorter) if rng.random() < 0.4 else (shorter, longer)
    canvas = background(size, rng)
    _add_clutter_(canvas, rng)
    for _ in range(int(rng.integers(4, 11))):
        polygons = outlines(CLASS_NAMES[rng.integers(len(CLASS_NAMES))], rng)
        sides = min(size) * rng.uniform(0.1, 0.5) * rng.uniform(0.6, 1, 2)
        cover = rasterise(polygons, place(sides, size, rng))
        _blend_(canvas, cover, _coat(canvas, cover, rng), rng.uniform(0.7, 1))
    drawn: list[_Drawn] = []
    count = 0 if rng.random() < _EMPTY_SHARE else int(rng.choice((1, 1, 2)))
    for _ in range(count):
        parts = _animal(rng)
        low, high = LARGE_SIDES if count == 1 else (LARGE_SIDES[0], 0.6)
        points = np.concatenate(parts)
        # The extents relative to the image's sides; the longer of both is drawn.
        relative = (points.max(axis=0) - points.min(axis=0)) / size[::-1]
        scale = rng.uniform(low, high) / relative.max()
        parts = [part * scale for part in parts]
        for _ in range(_TRIES):
            box, cover, covers = _rasterise_parts(parts, size, rng)
            if _leaves_visible(drawn, cover, 0.75):
                _dress_(canvas, cover, covers, rng)
                _append_(drawn, box, 0, cover)
                break
    return _photograph(canvas, drawn, rng)


KINDS = {
    "small": Kind(CLASS_NAMES, draw_small),
    "crowded": Kind(("cell", "dark_cell"), draw_crowded),
    "large": Kind(("animal",), draw_large),
}


def _blob(rng: np.random.Generator) -> np.ndarray:
    """Makes the outline of a cell, a circle that is a little dented, in the unit square."""
    angles = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    radius = np.ones_like(angles)
    for waves in (2, 3, 4):
        radius += rng.uniform(0, 0.2 / waves) * np.cos(waves * angles + rng.uniform(0, 2 * np.pi))
    points = on_circle(angles) * radius[:, None]
    low, high = points.min(axis=0), points.max(axis=0)
    return (points - low) / (high - low)


def _place_in_crowd(
    polygons: list[np.ndarray],
    sides: np.ndarray,
    drawn: Sequence[_Drawn],
    rng: np.random.Generator,
) -> tuple[np.ndarray, Cover]:
    """Draws where a cell lies: two of three lie close to another, and none hides much of one."""
    least = 0.55
    while True:
        for _ in range(_TRIES):
            box = place(sides, PHOTO, rng)
            if drawn and rng.random() < 2 / 3:
                other = drawn[int(rng.integers(len(drawn)))].box
                reach = (other[2:] - other[:2] + sides) / 2 * rng.uniform(0.5, 1.05)
                angle = rng.uniform(0, 2 * np.pi)
                middle = (other[:2] + other[2:]) / 2 + reach * on_circle(np.array([angle]))[0]
                start = np.clip(middle - sides / 2, 0, PHOTO[::-1] - sides)
                box = np.concatenate([start, start + sides])
            cover = rasterise(polygons, box)
            if _leaves_visible(drawn, cover, least):
                return box, cover
        least -= 0.1


def _animal(rng: np.random.Generator) -> list[np.ndarray]:
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


def _rasterise_parts(
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


def _dress_(
    canvas: np.ndarray, cover: Cover, covers: Sequence[Cover], rng: np.random.Generator
) -> None:
    """Paints an animal: a coat of one texture, each part a little lighter or darker, and an eye."""
    coat = _coat(canvas, cover, rng)
    for part in covers:
        rows, columns = part.top - cover.top, part.left - cover.left
        window = Cover(rows, columns, part.fraction).window
        _blend_(canvas, part, coat[window] + rng.uniform(-12, 12), 1.0)
    face = covers[-1]
    height, width = face.fraction.shape
    middle = np.array([face.left + width / 2, face.top + height * 0.4])
    reach = np.array([0.09, 0.09]) * min(height, width)
    eye = rasterise(outlines("ellipse", rng), np.concatenate([middle - reach, middle + reach]))
    _blend_(canvas, eye, np.float32(15), 1.0)


def _coat(canvas: np.ndarray, cover: Cover, rng: np.random.Generator) -> np.ndarray:
    """Draws a texture float32 [h, w, 3] whose colour differs a little from what is behind."""
    color = paint(canvas[cover.window][cover.fraction > 0], rng, contrast=45)
    texture = background(cover.fraction.shape, rng)
    return color + rng.uniform(0.5, 1.5) * (texture - texture.mean((0, 1)))


def _add_clutter_(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """Draws faint lines and large faint shapes, which are no objects."""
    height, width = canvas.shape[:2]
    for _ in range(int(rng.integers(2, 7))):
        polygons = outlines(("ellipse", "rectangle", "triangle")[rng.integers(3)], rng)
        sides = rng.uniform(0.2, 0.6, 2) * (width, height)
        cover = rasterise(polygons, place(sides, (height, width), rng))
        _blend_(canvas, cover, rng.uniform(20, 235, 3), rng.uniform(0.1, 0.4))
    lines = canvas.copy()
    for _ in range(int(rng.integers(3, 15))):
        start, end = (rng.uniform(0, 1, (2, 2)) * (width, height)).astype(int).tolist()
        color = rng.uniform(20, 235, 3).tolist()
        cv2.line(lines, start, end, color, int(rng.integers(1, 4)), cv2.LINE_AA)
    canvas += rng.uniform(0.2, 0.5) * (lines - canvas)


def _leaves_visible(drawn: Sequence[_Drawn], cover: Cover, least: float) -> bool:
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


def _append_(drawn: list[_Drawn], box: np.ndarray, label: int, cover: Cover) -> None:
    """Appends an object, and notes what it hides of the others."""
    for other in drawn:
        inner, outer = _common(other.cover, cover)
        other.hidden[inner] = np.maximum(other.hidden[inner], cover.fraction[outer])
    drawn.append(_Drawn(box, label, cover, np.zeros_like(cover.fraction)))


def _common(one: Cover, two: Cover) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Finds the pixels that two windows have in common, counted in each; none may be left."""
    pairs = []
    for mine, others in zip(one.window, two.window, strict=True):
        low, high = max(mine.start, others.start), min(mine.stop, others.stop)
        high = max(low, high)
        pairs.append([slice(low - each.start, high - each.start) for each in (mine, others)])
    (rows, other_rows), (columns, other_columns) = pairs
    return (rows, columns), (other_rows, other_columns)


def _blend_(canvas: np.ndarray, cover: Cover, color: np.ndarray | np.float32, alpha: float) -> None:
    """Lays a colour, or a texture float32 [h, w, 3], over the pixels that a shape covers."""
    behind = canvas[cover.window]
    behind += alpha * cover.fraction[..., None] * (color - behind)


def _photograph(
    canvas: np.ndarray, drawn: Sequence[_Drawn], rng: np.random.Generator
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
