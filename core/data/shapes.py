"""Generates a dataset: JPEG files of plain shapes over textured backgrounds, with COCO annotations.

    python -m core.data.shapes OUT --train 6000 --val 200 --size 127 --seed 317
    python -m core.data.shapes OUT --like crowded --train 150 --val 50

writes ``OUT/annotations/instances_{train,val}.json`` and ``OUT/images/{train,val}/``. Image i of a
split depends only on the seed, the size, the split and i. ``--size 383 --mostly-small`` makes small
shapes in large images, for detectors that zoom in. ``--like`` makes a small dataset that is as hard
as people's own: ``small`` objects of several classes, ``crowded`` objects that look the same and
overlap, one or two ``large`` objects in images of many sizes, or animals among leaves in textures
that have the statistics of ``natural`` ones.
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from ..cli import exit_codes
from ..config.errors import UserError
from .shapes_drawing import CLASS_NAMES, DrawnImage, background, outlines, paint, place, rasterise
from .shapes_like import KINDS

logger = logging.getLogger(__name__)

MIN_SIDE = 10  # pixels of the shorter side of the smallest shape
MAX_SHAPES = 3
EMPTY_SHARE = 0.04  # fraction of images without any shape
MIN_VISIBLE = 0.75  # fraction of a shape that later shapes leave visible
_TRIES = 20  # places tried for a shape

SPLITS = ("train", "val")
_COUNTS, _LIKE_COUNTS, _SIZE = (6000, 200), (150, 50), 127
_MARK = "shapes.json"  # marks a folder that this generator wrote and may overwrite
_JPEG_QUALITY = 95


class Content(NamedTuple):
    """What a dataset shows.

    Attributes:
        description: text for the annotation files.
        class_names: names of the classes, in the order of the labels.
        draw: draws an image from random numbers.
    """

    description: str
    class_names: tuple[str, ...]
    draw: Callable[[np.random.Generator], DrawnImage]


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m core.data.shapes", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("out", type=Path, help="folder to write; made if it does not exist")
    parser.add_argument("--train", type=int, help="training images (6000; with --like 150)")
    parser.add_argument("--val", type=int, help="validation images (200; with --like 50)")
    parser.add_argument("--size", type=int, help=f"pixels a side ({_SIZE})")
    parser.add_argument("--seed", type=int, default=317, help="%(default)s")
    parser.add_argument(
        "--mostly-small",
        action="store_true",
        help="as many shapes of 10 to 20 pixels as of 20 to 40",
    )
    parser.add_argument("--like", choices=KINDS, help="kind of a hard dataset, of photos' sizes")
    options = parser.parse_args(argv)
    defaults = _LIKE_COUNTS if options.like else _COUNTS
    given = (options.train, options.val)
    counts = {
        split: default if count is None else count
        for split, count, default in zip(SPLITS, given, defaults, strict=True)
    }
    if options.like is None:
        size = _SIZE if options.size is None else options.size
        write_shapes(options.out, counts, size, options.seed, options.mostly_small)
    elif options.size is not None or options.mostly_small:
        raise UserError("--like has sizes of its own; leave --size and --mostly-small out")
    else:
        write_like(options.out, counts, options.like, options.seed)
    return 0


def write_shapes(
    out: Path, counts: dict[str, int], size: int, seed: int, mostly_small: bool = False
) -> None:
    """Writes images and annotations of each split under ``out``.

    Args:
        out: a new or empty folder, or one that this module wrote before.
        counts: number of images of the splits ``train`` and ``val``.
        size: side of an image in pixels.
        seed: seed of all draws, 0 or more.
        mostly_small: draw mostly small shapes, as :func:`draw_image` does.

    Raises:
        UserError: a number is out of range, or ``out`` holds something else.
    """
    if not 2 * MIN_SIDE <= size <= 8192:
        raise UserError(f"--size {size} must be from {2 * MIN_SIDE} to 8192")

    def draw(rng: np.random.Generator) -> DrawnImage:
        return draw_image(size, rng, mostly_small)

    _write(out, counts, seed, Content(f"size {size}", CLASS_NAMES, draw))


def write_like(out: Path, counts: dict[str, int], like: str, seed: int) -> None:
    """Writes a hard dataset whose images have photos' sizes.

    Args:
        out, counts, seed: as for :func:`write_shapes`.
        like: a key of :data:`~.shapes_like.KINDS`.

    Raises:
        UserError: a number is out of range, or ``out`` holds something else.
    """
    kind = KINDS[like]
    _write(out, counts, seed, Content(f"like {like}", kind.class_names, kind.draw))


def _write(out: Path, counts: dict[str, int], seed: int, content: Content) -> None:
    if min(counts.values()) < 1:
        raise UserError("--train and --val must be at least 1")
    if seed < 0:
        raise UserError(f"--seed {seed} must be 0 or more")
    _claim(out)
    for split, count in counts.items():
        _write_split(out, split, count, seed, content)
    images = ", ".join(f"{count} {split}" for split, count in counts.items())
    classes = len(content.class_names)
    plural = "es" if classes > 1 else ""
    logger.info("%s: wrote %s images of %d class%s", out, images, classes, plural)


def _claim(out: Path) -> None:
    """Marks ``out`` as written by this generator, unless it holds other files."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a folder to write to")
    if out.is_dir() and any(out.iterdir()) and not (out / _MARK).is_file():
        raise UserError(f"{out} holds other files and nothing was written; name a new folder")
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARK).write_text('{"made by": "core.data.shapes"}\n', encoding="utf-8")


def _write_split(out: Path, split: str, count: int, seed: int, content: Content) -> None:
    image_dir = out / "images" / split
    image_dir.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in tqdm(range(count), desc=f"{split} images", disable=None):
        rng = np.random.default_rng((seed, SPLITS.index(split), index))
        drawn = content.draw(rng)
        name = f"{index:06d}.jpg"
        quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        if not cv2.imwrite(str(image_dir / name), drawn.image, quality):
            raise UserError(f"{image_dir / name} cannot be written")
        height, width = drawn.image.shape[:2]
        images.append({"id": index, "file_name": name, "height": height, "width": width})
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
    names = enumerate(content.class_names, 1)
    records = {
        "info": {"description": f"shapes, {split}, {content.description}, seed {seed}"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": identity, "name": name} for identity, name in names],
    }
    annotation_file = out / "annotations" / f"instances_{split}.json"
    annotation_file.parent.mkdir(exist_ok=True)
    annotation_file.write_text(json.dumps(records), encoding="utf-8")


def draw_image(size: int, rng: np.random.Generator, mostly_small: bool = False) -> DrawnImage:
    """Draws one image: a background and up to :data:`MAX_SHAPES` shapes that may overlap.

    Args:
        size: side of the image in pixels, at least twice :data:`MIN_SIDE`.
        rng: draws everything.
        mostly_small: draw as many shapes of 10 to 20 pixels as of 20 to 40 and so on, as in photos.
    """
    canvas = background((size, size), rng)
    count = 0 if rng.random() < EMPTY_SHARE else int(rng.integers(1, MAX_SHAPES + 1))
    boxes, labels = [], []
    covers: list[np.ndarray] = []  # for each shape, the fraction of every pixel that it covers
    hidden: list[np.ndarray] = []  # for each shape, the fraction that later shapes hide
    for _ in range(count):
        label = int(rng.integers(len(CLASS_NAMES)))
        polygons = outlines(CLASS_NAMES[label], rng)
        for _ in range(_TRIES):
            box = place(_sides(size, rng, mostly_small), (size, size), rng)
            placed = rasterise(polygons, box)
            cover = np.zeros((size, size), np.float32)
            cover[placed.window] = placed.fraction
            covered = [np.maximum(mask, cover) for mask in hidden]
            if all(_visible(*pair) >= MIN_VISIBLE for pair in zip(covers, covered, strict=True)):
                canvas += cover[..., None] * (paint(canvas[cover > 0], rng) - canvas)
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


def _visible(cover: np.ndarray, hidden: np.ndarray) -> float:
    return float((cover * (1 - hidden)).sum() / cover.sum())


def _sides(size: int, rng: np.random.Generator, mostly_small: bool = False) -> np.ndarray:
    """Draws the width and height of a box, from 10 pixels to half the image."""
    shortest, longest = MIN_SIDE, size / 2
    if mostly_small:
        longer = shortest * (longest / shortest) ** rng.random()
    else:
        longer = rng.uniform(shortest, longest)
    shorter = max(shortest, longer * rng.uniform(0.7, 1))
    return np.array([longer, shorter] if rng.random() < 0.5 else [shorter, longer])


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
