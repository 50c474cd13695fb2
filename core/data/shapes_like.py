"""Four kinds of hard images that have the sizes of photos, for datasets of a few hundred.

- ``small``: small objects of six classes on a cluttered background;
- ``crowded``: 20 to 60 translucent cells that look the same, touch and overlap; a few are dark;
- ``large``: one or two animals that fill much of an image, among shapes that resemble their parts;
- ``natural``: one or two animals with fur among leaves, in textures as those of photos of nature.

All are blurred, lit from one side and noisy, as photos are. Every object lies wholly inside.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from .shapes_animal import animal, eye, rasterise_parts
from .shapes_drawing import (
    CLASS_NAMES,
    Cover,
    DrawnImage,
    background,
    blob,
    clouds,
    on_circle,
    outlines,
    paint,
    place,
    rasterise,
)
from .shapes_natural import draw_natural
from .shapes_scene import (
    PlacedObject,
    append_,
    blend_,
    leaves_visible,
    photograph,
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


def draw_small(rng: np.random.Generator) -> DrawnImage:
    """Draws 3 to 16 shapes of :data:`CLASS_NAMES`, nine of ten of them in :data:`SMALL_SIDES`."""
    canvas = background(PHOTO, rng)
    _add_clutter_(canvas, rng)
    drawn: list[PlacedObject] = []
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
            if leaves_visible(drawn, cover, 0.75):
                color = paint(canvas[cover.window][cover.fraction > 0], rng, contrast=60)
                fill = color + rng.normal(0, 4) * clouds(cover.fraction.shape, 4, rng)
                blend_(canvas, cover, fill, rng.uniform(0.7, 1))
                append_(drawn, box, label, cover)
                break
    return photograph(canvas, drawn, rng)


def draw_crowded(rng: np.random.Generator) -> DrawnImage:
    """Draws cells, as many as :data:`CROWD` says; up to three of them are of the dark class."""
    canvas = rng.uniform(170, 225, 3) + clouds(PHOTO, 6, rng) * rng.uniform(2, 8)
    canvas = canvas.astype(np.float32)
    color = canvas.mean((0, 1)) - rng.uniform(25, 65, 3)
    for _ in range(int(rng.integers(5, 25))):  # debris, which is no object
        cover = rasterise([blob(rng)], place(rng.uniform(6, 24, 2), PHOTO, rng))
        blend_(canvas, cover, color + rng.normal(0, 15, 3), rng.uniform(0.2, 0.6))
    count = int(rng.integers(CROWD[0], CROWD[1] - 3 + 1))
    longest = min(84.0, np.sqrt(0.75 * PHOTO[0] * PHOTO[1] / count))
    side = rng.uniform(0.6 * longest, longest)
    labels = [0] * count + [1] * int(rng.integers(4))
    drawn: list[PlacedObject] = []
    for label in rng.permutation(labels).tolist():
        polygons = [blob(rng)]
        sides = side * (1.25 if label else 1) * rng.uniform(0.8, 1.2, 2)
        box, cover = _place_in_crowd(polygons, sides, drawn, rng)
        fill = color + rng.normal(0, 6, 3)
        blend_(canvas, cover, fill, rng.uniform(0.35, 0.6))
        middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
        inner = 0.6 if label else 0.5
        nucleus = rasterise(
            polygons, np.concatenate([middle - inner * half, middle + inner * half])
        )
        shade = fill - rng.uniform(40, 70, 3) if label else canvas[cover.window].mean((0, 1)) + 30
        blend_(canvas, nucleus, shade, 0.8 if label else 0.3)
        append_(drawn, box, label, cover)
    return photograph(canvas, drawn, rng)


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
        blend_(canvas, cover, _coat(canvas, cover, rng), rng.uniform(0.7, 1))
    drawn: list[PlacedObject] = []
    count = 0 if rng.random() < _EMPTY_SHARE else int(rng.choice((1, 1, 2)))
    for _ in range(count):
        parts = animal(rng)
        low, high = LARGE_SIDES if count == 1 else (LARGE_SIDES[0], 0.6)
        points = np.concatenate(parts)
        # The extents relative to the image's sides; the longer of both is drawn.
        relative = (points.max(axis=0) - points.min(axis=0)) / size[::-1]
        scale = rng.uniform(low, high) / relative.max()
        parts = [part * scale for part in parts]
        for _ in range(_TRIES):
            box, cover, covers = rasterise_parts(parts, size, rng)
            if leaves_visible(drawn, cover, 0.75):
                _dress_(canvas, cover, covers, rng)
                append_(drawn, box, 0, cover)
                break
    return photograph(canvas, drawn, rng)


KINDS = {
    "small": Kind(CLASS_NAMES, draw_small),
    "crowded": Kind(("cell", "dark_cell"), draw_crowded),
    "large": Kind(("animal",), draw_large),
    "natural": Kind(("animal",), draw_natural),
}


def _place_in_crowd(
    polygons: list[np.ndarray],
    sides: np.ndarray,
    drawn: Sequence[PlacedObject],
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
            if leaves_visible(drawn, cover, least):
                return box, cover
        least -= 0.1


def _dress_(
    canvas: np.ndarray, cover: Cover, covers: Sequence[Cover], rng: np.random.Generator
) -> None:
    """Paints an animal: a coat of one texture, each part a little lighter or darker, and an eye."""
    coat = _coat(canvas, cover, rng)
    for part in covers:
        rows, columns = part.top - cover.top, part.left - cover.left
        window = Cover(rows, columns, part.fraction).window
        blend_(canvas, part, coat[window] + rng.uniform(-12, 12), 1.0)
    blend_(canvas, eye(covers[-1], 0.09, rng), np.float32(15), 1.0)


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
        blend_(canvas, cover, rng.uniform(20, 235, 3), rng.uniform(0.1, 0.4))
    lines = canvas.copy()
    for _ in range(int(rng.integers(3, 15))):
        start, end = (rng.uniform(0, 1, (2, 2)) * (width, height)).astype(int).tolist()
        color = rng.uniform(20, 235, 3).tolist()
        cv2.line(lines, start, end, color, int(rng.integers(1, 4)), cv2.LINE_AA)
    canvas += rng.uniform(0.2, 0.5) * (lines - canvas)
