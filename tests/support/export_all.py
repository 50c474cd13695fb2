"""Exports a small network of every model and compares onnxruntime with PyTorch, for minutes.

    PYTHONPATH=. python tests/support/export_all.py [MODEL …]

Each file is for all sizes and batches. It sees the photos of ../shared if they are there, else
noise, of two sizes, alone and in a batch.
"""

import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from core.export.comparison import compare
from core.export.geometry import varying_sides
from core.export.graph import DetectionGraph, settings_of
from core.export.manifest import Manifest
from core.export.onnx_detector import OnnxDetector
from core.export.onnx_file import trace, write_onnx
from tests.support.exports import CLASS_NAMES, MODELS, finding_detector

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "bccd" / "images"


def images() -> list[np.ndarray]:
    """Three images of two sizes, which fill their canvases.

    On even borders fresh weights find many peaks that are equal but for the rounding of sums.
    """
    sizes = [(255, 383), (383, 255), (255, 383)]
    files = sorted(PHOTOS.rglob("*.jpg"))[: len(sizes)]
    if not files:
        draw = np.random.default_rng(0).integers
        return [draw(0, 256, (*size, 3), np.uint8) for size in sizes]
    photos = [cv2.imread(str(file)) for file in files]
    return [photo[:height, :width] for photo, (height, width) in zip(photos, sizes, strict=True)]


def check(name: str, folder: Path) -> bool:
    """Exports one model; prints a line and returns True if both agree."""
    start = time.perf_counter()
    loaded = finding_detector(name)
    settings = settings_of(loaded.detector, name)
    sides = varying_sides(settings)
    manifest = Manifest(name, loaded.config.model_name, "", CLASS_NAMES, *sides, settings)
    graph = DetectionGraph(loaded.detector, settings)
    file = folder / f"{name}.onnx"
    write_onnx(trace(graph, manifest, None), graph.output_names, manifest, file)
    exported = OnnxDetector(file, 1)
    ours, theirs = (list(each.stream(images(), 2)) for each in (loaded, exported))
    alone = [exported.detections(image) for image in images()]
    result, batched = compare(ours, theirs), compare(alone, theirs)
    agree = result.compared > 0 and not result.missing and not batched.missing
    agree = agree and max(result.boxes, batched.boxes) < 1e-3
    print(
        f"{name}: {result}, batch {batched.boxes:.1g}, {time.perf_counter() - start:.0f} s",
        flush=True,
    )
    return agree


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        results = [check(name, Path(folder)) for name in sys.argv[1:] or MODELS]
    sys.exit(not all(results))
