"""Images with the statistics of natural ones: animals among "dead leaves" with 1/f textures.

Photos of nature look the same at every scale: their spectrum falls with the frequency, and they are
made of surfaces that hide one another. Opaque shapes whose sizes follow a power law, laid over each
other, have both properties (Lee, Mumford and Huang 2001, "Occlusion models for natural images").
Colour says little here: animals have muted colours, as everything around them.
"""

import colorsys

import cv2
import numpy as np

from .shapes_animal import animal, eye, rasterise_parts
from .shapes_drawing import Cover, DrawnImage, blob, outlines, place, rasterise
from .shapes_scene import PlacedObject, append_, blend_, hide_, leaves_visible, photograph

LEAVES = (150, 350)  # in an image
LEAF_SIDES = (24.0, 320.0)  # pixels; there are as many of a size as its third power is small
ANIMAL_SIDES = (0.3, 0.6)  # longer extent of an animal, as a fraction of the image's side
CONTRAST = 28.0  # distance in BGR of an animal from the mean of what it covers, at least
_IN_FRONT = 0.04  # fraction of the leaves that lie over the animals
_TEXTURES = 4  # of an image
_TRIES = 30  # places tried for an animal


def draw_natural(rng: np.random.Generator) -> DrawnImage:
    """Draws one or two animals with fur among leaves, some of which hide a part of them."""
    size = (480, 640) if rng.random() < 0.6 else (640, 480)
    textures = [pink_noise(size, rng.uniform(0.8, 1.4), rng) for _ in range(_TEXTURES)]
    palette = np.stack([_muted_color(rng) for _ in range(5)])
    canvas = _surface(size, palette[0], textures[0], rng)
    count = int(rng.integers(*LEAVES))
    front = int(_IN_FRONT * count)
    for _ in range(count - front):
        _lay_leaf_(canvas, palette, textures, rng)
    drawn: list[PlacedObject] = []
    for _ in range(int(rng.choice((1, 1, 2)))):
        parts = animal(rng)
        points = np.concatenate(parts)
        relative = (points.max(axis=0) - points.min(axis=0)) / size[::-1]
        scale = rng.uniform(*ANIMAL_SIDES) / relative.max()
        parts = [part * scale for part in parts]
        for _ in range(_TRIES):
            box, cover, covers = rasterise_parts(parts, size, rng)
            if leaves_visible(drawn, cover, 0.75):
                _lay_animal_(canvas, cover, covers, textures, rng)
                append_(drawn, box, 0, cover)
                break
    for _ in range(front):
        leaf = _leaf(size, rng)
        if leaves_visible(drawn, leaf, 0.8):
            _paint_leaf_(canvas, leaf, palette, textures, rng)
            hide_(drawn, leaf)
    return photograph(canvas, drawn, rng)


def pink_noise(size: tuple[int, int], exponent: float, rng: np.random.Generator) -> np.ndarray:
    """Draws noise whose amplitude falls with the frequency: float32 [height, width], deviation 1.

    Args:
        size: height and width in pixels.
        exponent: of the frequency; about 1 in photos of nature (Field 1987).
        rng: draws the phases.
    """
    height, width = size
    down, across = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    frequency = np.hypot(down, across)
    frequency[0, 0] = np.inf  # no mean
    noise = np.fft.rfft2(rng.normal(size=size)) / frequency**exponent
    texture = np.fft.irfft2(noise, s=size)
    return (texture / texture.std()).astype(np.float32)


def _muted_color(rng: np.random.Generator) -> np.ndarray:
    """Draws a colour of leaves, earth, stone or sky: float32 [3], BGR."""
    hue = rng.choice((rng.uniform(0.05, 0.15), rng.uniform(0.15, 0.4), rng.uniform(0.5, 0.65)))
    red, green, blue = colorsys.hsv_to_rgb(hue, rng.uniform(0.05, 0.5), rng.uniform(0.2, 0.85))
    return np.array([blue, green, red], np.float32) * 255


def _surface(
    size: tuple[int, int], color: np.ndarray, texture: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draws a textured surface of a size: float32 [h, w, 3], cut from a place of ``texture``."""
    (height, width), (most_down, most_across) = size, texture.shape
    top = int(rng.integers(most_down - height + 1))
    left = int(rng.integers(most_across - width + 1))
    piece = texture[top : top + height, left : left + width, None]
    return color + piece * rng.uniform(4, 26) * rng.uniform(0.7, 1.3, 3).astype(np.float32)


def _leaf(size: tuple[int, int], rng: np.random.Generator) -> Cover:
    """Draws the outline of a leaf, and where it lies."""
    low, high = (side**-2 for side in LEAF_SIDES)
    side = rng.uniform(high, low) ** -0.5  # its density falls with the third power
    sides = np.minimum(side * rng.uniform(0.35, 1, 2), np.array(size[::-1]) - 2)
    kind = rng.choice(("blob", "blob", "triangle", "rectangle"))
    shape = [blob(rng)] if kind == "blob" else outlines(kind, rng)
    return rasterise(shape, place(sides, size, rng))


def _lay_leaf_(
    canvas: np.ndarray,
    palette: np.ndarray,
    textures: list[np.ndarray],
    rng: np.random.Generator,
) -> None:
    _paint_leaf_(canvas, _leaf(canvas.shape[:2], rng), palette, textures, rng)


def _paint_leaf_(
    canvas: np.ndarray,
    leaf: Cover,
    palette: np.ndarray,
    textures: list[np.ndarray],
    rng: np.random.Generator,
) -> None:
    color = palette[rng.integers(len(palette))] + rng.normal(0, 10, 3).astype(np.float32)
    texture = textures[rng.integers(len(textures))]
    blend_(canvas, leaf, _surface(leaf.fraction.shape, color, texture, rng), 1.0)


def _lay_animal_(
    canvas: np.ndarray,
    cover: Cover,
    covers: list[Cover],
    textures: list[np.ndarray],
    rng: np.random.Generator,
) -> None:
    """Paints an animal: fur, in places of a second colour, lit from above, and an eye."""
    behind = canvas[cover.window][cover.fraction > 0].mean(axis=0)
    color = _muted_color(rng)
    while np.linalg.norm(color - behind) < CONTRAST:
        color = _muted_color(rng)
    shape = cover.fraction.shape
    coat = _surface(shape, color, textures[rng.integers(len(textures))], rng)
    if rng.random() < 0.5:
        spots = cv2.GaussianBlur(rng.normal(size=shape), (0, 0), min(shape) / 14)
        spotted = (spots > 0.8 * spots.std())[..., None]
        coat = np.where(spotted, coat + (_muted_color(rng) - color), coat)
    strands = cv2.blur(rng.normal(size=shape), (int(rng.integers(5, 14)), 2))
    coat = coat + (60 * strands + np.linspace(18, -18, shape[0])[:, None])[..., None]
    for part in covers:
        inside = Cover(part.top - cover.top, part.left - cover.left, part.fraction).window
        blend_(canvas, part, (coat[inside] + rng.uniform(-10, 10)).astype(np.float32), 1.0)
    blend_(canvas, eye(covers[-1], 0.08, rng), np.float32(20), 1.0)
