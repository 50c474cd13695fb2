"""Generates a dataset: JPEG files of plain shapes over textured backgrounds, with COCO annotations.

    python -m core.data.shapes OUT --train 6000 --val 200 --size 127 --seed 317

writes ``OUT/annotations/instances_{train,val}.json`` and ``OUT/images/{train,val}/``. Image i of a
split depends only on the seed, the size, the split and i. ``--size 383 --mostly-small`` makes small
shapes in large images, for detectors that zoom in.
"""

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from ..cli import exit_codes
from ..config.errors import UserError

logger = logging.getLogger(__name__)

CLASS_NAMES = ("ellipse", "rectangle", "triangle", "star", "ring", "cross")

MIN_SIDE = 10  # pixels of the shorter side of the smallest shape
MAX_SHAPES = 3
EMPTY_SHARE = 0.04  # fraction of images without any shape
MIN_VISIBLE = 0.75  # fraction of a shape that later shapes leave visible
MIN_CONTRAST = 90  # distance in BGR of a shape from the pixels that it covers
_OVERSAMPLING = 8  # sub-pixels a side, for smooth edges
_TRIES = 20  # places tried for a shape

SPLITS = ("train", "val")
_MARK = "shapes.json"  # marks a folder that this generator wrote and may overwrite
_JPEG_QUALITY = 95


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m core.data.shapes", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("out", type=Path, help="folder to write; made if it does not exist")
    parser.add_argument("--train", type=int, default=6000, help="training images (%(default)s)")
    parser.add_argument("--val", type=int, default=200, help="validation images (%(default)s)")
    parser.add_argument("--size", type=int, default=127, help="pixels a side (%(default)s)")
    parser.add_argument("--seed", type=int, default=317, help="%(default)s")
    parser.add_argument(
        "--mostly-small",
        action="store_true",
        help="as many shapes of 10 to 20 pixels as of 20 to 40",
    )
    options = parser.parse_args(argv)
    counts = {"train": options.train, "val": options.val}
    write_shapes(options.out, counts, options.size, options.seed, options.mostly_small)
    return 0


def write_shapes(
    out: Path, counts: dict[str, int], size: int, seed: int, mostly_small: bool = False
) -> None:
    """Writes images and annotations of each split under ``out``.

    Args:
        out: a new or empty folder, or one that this function wrote before.
        counts: number of images of the splits ``train`` and ``val``.
        size: side of an image in pixels.
        seed: seed of all draws, 0 or more.
        mostly_small: draw mostly small shapes, as :func:`draw_image` does.

    Raises:
        UserError: a number is out of range, or ``out`` holds something else.
    """
    if min(counts.values()) < 1:
        raise UserError("--train and --val must be at least 1")
    if not 2 * MIN_SIDE <= size <= 8192:
        raise UserError(f"--size {size} must be from {2 * MIN_SIDE} to 8192")
    if seed < 0:
        raise UserError(f"--seed {seed} must be 0 or more")
    _claim(out)
    for split, count in counts.items():
        _write_split(out, split, count, size, seed, mostly_small)
    images = ", ".join(f"{count} {split}" for split, count in counts.items())
    logger.info("%s: wrote %s images of %d classes", out, images, len(CLASS_NAMES))


def _claim(out: Path) -> None:
    """Marks ``out`` as written by this generator, unless it holds other files."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a folder to write to")
    if out.is_dir() and any(out.iterdir()) and not (out / _MARK).is_file():
        raise UserError(f"{out} holds other files and nothing was written; name a new folder")
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARK).write_text('{"made by": "core.data.shapes"}\n', encoding="utf-8")


def _write_split(
    out: Path, split: str, count: int, size: int, seed: int, mostly_small: bool
) -> None:
    image_dir = out / "images" / split
    image_dir.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in tqdm(range(count), desc=f"{split} images", disable=None):
        rng = np.random.default_rng((seed, SPLITS.index(split), index))
        drawn = draw_image(size, rng, mostly_small)
        name = f"{index:06d}.jpg"
        quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        if not cv2.imwrite(str(image_dir / name), drawn.image, quality):
            raise UserError(f"{image_dir / name} cannot be written")
        images.append({"id": index, "file_name": name, "height": size, "width": size})
        for box, label, area in zip(drawn.boxes, drawn.labels, drawn.areas, strict=True):
            xywh = [*box[:2], *(box[2:] - box[:2])]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": int(label) + 1,
                    "bbox": [round(float(number), 2) for number in xywh],
                    "area": round(float(area), 2),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(CLASS_NAMES)]
    content = {
        "info": {"description": f"shapes, {split}, size {size}, seed {seed}"},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    annotation_file = out / "annotations" / f"instances_{split}.json"
    annotation_file.parent.mkdir(exist_ok=True)
    annotation_file.write_text(json.dumps(content), encoding="utf-8")


class DrawnImage(NamedTuple):
    """An image of shapes.

    Attributes:
        image: uint8 [size, size, 3], BGR.
        boxes: float32 [n, 4], (x0, y0, x1, y1) around the full extent of each shape.
        labels: int64 [n], into :data:`CLASS_NAMES`.
        areas: float32 [n], pixels that each shape covers, hidden parts included.
        visible: float32 [n], the fraction of each shape that no later shape hides.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    visible: np.ndarray


def draw_image(size: int, rng: np.random.Generator, mostly_small: bool = False) -> DrawnImage:
    """Draws one image: a background and up to :data:`MAX_SHAPES` shapes that may overlap.

    Args:
        size: side of the image in pixels, at least twice :data:`MIN_SIDE`.
        rng: draws everything.
        mostly_small: draw as many shapes of 10 to 20 pixels as of 20 to 40 and so on, as in photos.
    """
    canvas = _background(size, rng)
    count = 0 if rng.random() < EMPTY_SHARE else int(rng.integers(1, MAX_SHAPES + 1))
    boxes, labels = [], []
    covers: list[np.ndarray] = []  # for each shape, the fraction of every pixel that it covers
    hidden: list[np.ndarray] = []  # for each shape, the fraction that later shapes hide
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
    return DrawnImage(
        image=np.clip(canvas + noise, 0, 255).astype(np.uint8),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        areas=np.array([cover.sum() for cover in covers], np.float32),
        visible=np.array(list(map(_visible, covers, hidden)), np.float32),
    )


def rasterise(polygons: list[np.ndarray], box: np.ndarray, size: int) -> np.ndarray:
    """Rasterises a shape: float32 [size, size], the fraction of every pixel that it covers.

    Args:
        polygons: outlines float [k, 2] in the unit square; a point inside two is in a hole.
        box: (x0, y0, x1, y1), to which the unit square is stretched.
        size: side of the image in pixels.
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
    """Draws a box inside the image, with sides from 10 pixels to half the image."""
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
    """Makes the outlines of a shape, turned a little and stretched to fill the unit square."""
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
    """Draws a colour [3] that stands out from the pixels that the shape covers.

    Of twelve it is the first with enough contrast, or else the one with the most.
    """
    rows, columns = np.nonzero(cover > 0)
    behind = canvas[rows, columns]
    colors = rng.uniform(0, 255, (12, 3)).astype(np.float32)
    distances = np.linalg.norm(colors[:, None] - behind[::7], axis=2)
    contrasts = np.quantile(distances, 0.1, axis=1)
    good = contrasts >= MIN_CONTRAST
    return colors[np.argmax(good) if good.any() else np.argmax(contrasts)]


def _background(size: int, rng: np.random.Generator) -> np.ndarray:
    """Draws a gradient, plain or with clouds, grain or stripes: float32 [size, size, 3]."""
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
    """Draws smooth noise from ``cells`` x ``cells`` random values: float32 [size, size, 3]."""
    coarse = rng.normal(size=(cells, cells, 3)).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
