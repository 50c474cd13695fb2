"""Puts the first drawings of evaluations into one image, as docs/detections.png.

    python -m benchmarks.gallery FOLDER [FOLDER …] --out docs/detections.png [--count 6]

A folder is the ``debug`` folder of ``evaluate.py --debug``: detections beside ground truth, a file
an image. The first ones of the split are taken, whatever they show; two beside one another.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from core.cli import exit_codes
from core.config.errors import UserError
from core.data.images import load_image

WIDTH, GAP = 636, 8  # pixels of a drawing, and of the white between two


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="debug folders of evaluations")
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--count", type=int, default=6, help="drawings of each (%(default)s)")
    options = parser.parse_args(argv)
    drawings: list[np.ndarray] = []
    for folder in options.folders:
        files = sorted(file for file in folder.glob("*.jpg") if "_saccades" not in file.name)
        if len(files) < options.count:
            count = f"{len(files)} drawings, not {options.count}"
            raise UserError(f"{folder} has {count}; evaluate.py --debug makes them")
        drawings += [load_image(file) for file in files[: options.count]]
    colors = Image.fromarray(in_rows(drawings)[:, :, ::-1]).quantize(256, dither=Image.Dither.NONE)
    try:
        colors.save(options.out, optimize=True)
    except OSError as error:
        raise UserError(f"{options.out} cannot be written: {error.strerror}") from None
    return 0


def in_rows(drawings: list[np.ndarray]) -> np.ndarray:
    """Lays out drawings uint8 [h, w, 3] in rows of two, each resized to one width."""
    rows = []
    for left in range(0, len(drawings), 2):
        resized = [
            cv2.resize(
                drawing,
                (WIDTH, round(drawing.shape[0] * WIDTH / drawing.shape[1])),
                interpolation=cv2.INTER_AREA,
            )
            for drawing in drawings[left : left + 2]
        ]
        row = np.full((max(map(len, resized)) + GAP, 2 * WIDTH + GAP, 3), 255, np.uint8)
        for place, drawing in enumerate(resized):
            start = place * (WIDTH + GAP)
            row[: len(drawing), start : start + WIDTH] = drawing
        rows.append(row)
    return np.concatenate(rows)[:-GAP]


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
