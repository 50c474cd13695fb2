"""Writes the embedded data set: JPEG files of plain shapes with COCO annotations.

    python -m core.data.shapes OUT --train 6000 --val 200 --size 127 --seed 317

gives ``OUT/annotations/instances_{train,val}.json`` and ``OUT/images/{train,val}/``. Picture i of a
split depends on the seed, the size, the split and i alone. ``--size 383 --mostly-small`` makes
small shapes in large pictures, for detectors that look closer.
"""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from ..config.errors import UserError, run
from .shape_pictures import CLASS_NAMES, MIN_SIDE, draw_picture

logger = logging.getLogger(__name__)

SPLITS = ("train", "val")
_MARK = "shapes.json"  # says that a folder was written here and may be written again
_JPEG_QUALITY = 95


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m core.data.shapes", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("out", type=Path, help="folder to write; made if it is not there")
    parser.add_argument(
        "--train", type=int, default=6000, help="pictures to train on (%(default)s)"
    )
    parser.add_argument("--val", type=int, default=200, help="pictures to evaluate (%(default)s)")
    parser.add_argument("--size", type=int, default=127, help="pixels a side (%(default)s)")
    parser.add_argument("--seed", type=int, default=317, help="%(default)s")
    parser.add_argument(
        "--mostly-small",
        action="store_true",
        help="as many shapes of 10 to 20 pixels as of 20 to 40",
    )
    options = parser.parse_args(arguments)
    counts = {"train": options.train, "val": options.val}
    write_shapes(options.out, counts, options.size, options.seed, options.mostly_small)
    return 0


def write_shapes(
    out: Path, counts: dict[str, int], size: int, seed: int, mostly_small: bool = False
) -> None:
    """Writes pictures and annotations of each split under ``out``.

    Args:
        out: a new or empty folder, or one that this function wrote before.
        counts: number of pictures of the splits ``train`` and ``val``.
        size: pixels a side.
        seed: of all draws, 0 or more.
        mostly_small: see :func:`draw_picture`.

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
    pictures = ", ".join(f"{count} {split}" for split, count in counts.items())
    logger.info("%s: wrote %s pictures of %d classes", out, pictures, len(CLASS_NAMES))


def _claim(out: Path) -> None:
    """Marks ``out`` as ours, unless it holds somebody's files."""
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
    for index in tqdm(range(count), desc=f"{split} pictures", disable=None):
        rng = np.random.default_rng((seed, SPLITS.index(split), index))
        picture = draw_picture(size, rng, mostly_small)
        name = f"{index:06d}.jpg"
        quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        if not cv2.imwrite(str(image_dir / name), picture.image, quality):
            raise UserError(f"{image_dir / name} cannot be written")
        images.append({"id": index, "file_name": name, "height": size, "width": size})
        for box, label, area in zip(picture.boxes, picture.labels, picture.areas, strict=True):
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


if __name__ == "__main__":
    run(main)
