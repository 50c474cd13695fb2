"""Puts the first drawings of evaluations into one image, as docs/detections.png.

    python -m benchmarks.gallery FOLDER [FOLDER …] --out docs/detections.png [--count 2]

A folder is the ``debug`` folder of ``evaluate.py --debug``: detections beside ground truth, a file
an image. The first ones of the split are taken, whatever they show; one below the other.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

from core.cli import exit_codes
from core.config.errors import UserError
from core.data.images import load_image

WIDTH, GAP = 848, 8  # pixels of a drawing, and of the white between two


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="debug folders of evaluations")
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--count", type=int, default=2, help="drawings of each (%(default)s)")
    options = parser.parse_args(argv)
    drawings: list[np.ndarray] = []
    for folder in options.folders:
        files = sorted(file for file in folder.glob("*.jpg") if "_saccades" not in file.name)
        if len(files) < options.count:
            count = f"{len(files)} drawings, not {options.count}"
            raise UserError(f"{folder} has {count}; evaluate.py --debug makes them")
        drawings += [load_image(file) for file in files[: options.count]]
    if not cv2.imwrite(str(options.out), in_column(drawings)):
        raise UserError(f"{options.out} cannot be written")
    return 0


def in_column(drawings: list[np.ndarray]) -> np.ndarray:
    """Lays out drawings uint8 [h, w, 3] below each other, each resized to one width."""
    gap = np.full((GAP, WIDTH, 3), 255, np.uint8)
    parts = []
    for drawing in drawings:
        size = WIDTH, round(drawing.shape[0] * WIDTH / drawing.shape[1])
        parts += [cv2.resize(drawing, size, interpolation=cv2.INTER_AREA), gap]
    return np.concatenate(parts[:-1])


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
