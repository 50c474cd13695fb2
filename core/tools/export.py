"""Writes a trained detector as an ONNX file, which runs without PyTorch, and checks it.

    cornerkit export CornerNet_Squeeze
    cornerkit export CornerNet-bccd --snapshot best --dynamic --out cells.onnx --image cell.jpg
    cornerkit export CornerNet_Lite0 --size 640 480 --batch 8

The file takes uint8 images and gives boxes, scores and classes; soft-NMS follows outside, as
`cornerkit detect --onnx FILE` does it. It is made for one size of image, or with --dynamic for all.
Needs onnx, onnxscript and onnxruntime: pip install "cornerkit[export]".
"""

import argparse
import logging
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from ..cli import (
    add_config_arguments,
    add_snapshot_arguments,
    load_chosen_detector,
    plain_parser,
)
from ..config.errors import UserError
from ..data.images import load_image
from ..data.shapes import MIN_SIDE, draw_image
from ..data.transforms import Size
from ..export.comparison import LOWEST_SCORE, compare, median_times
from ..export.geometry import Settings, Sides, canvas_size, fixed_side, varying_sides
from ..export.graph import DetectionGraph, settings_of
from ..export.manifest import Manifest
from ..export.onnx_detector import OnnxDetector
from ..export.onnx_file import OPSET, import_package, trace, write_onnx
from ..models.loading import LoadedDetector
from ..models.ready import ReadyDetector
from ..structures import Detections

logger = logging.getLogger(__name__)

_ROUNDS = 5
_MOST_PIXELS = 0.01  # difference of a box, above which the file is reported as wrong
_MOST_SCORE = 0.001  # the same of a score


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit code: 1 if the file and PyTorch disagree."""
    options = _parse(argv)
    for package in ("onnx", "onnxscript", "onnxruntime"):
        import_package(package)
    out = options.out or Path(f"{Path(options.config).stem}.onnx")
    _require_free(out, options.force)
    photo = None if options.image is None else load_image(options.image)
    options.device = "cpu"
    options.set = [*options.set, "system.precision=float32"]
    loaded = load_chosen_detector(options)
    settings = settings_of(loaded.detector, loaded.config.path)
    width, height = options.size or loaded.config.db.input_size[::-1]
    manifest = describe(loaded, settings, None if options.dynamic else (height, width))
    batch = options.batch or (None if options.dynamic else 1)
    graph = DetectionGraph(loaded.detector, settings)
    write_onnx(trace(graph, manifest, batch), graph.output_names, manifest, out)
    images = _images((height, width), photo, options.dynamic)
    return _report(loaded, OnnxDetector(out), images, batch or 1)


def _parse(argv: list[str]) -> argparse.Namespace:
    """Parses the command line.

    Raises:
        UserError: a number is below 1, or ``--out`` names no ONNX file.
    """
    parser = plain_parser("export", __doc__)
    add_config_arguments(parser)
    add_snapshot_arguments(parser)
    parser.add_argument("--format", choices=["onnx"], default="onnx", help="(%(default)s)")
    parser.add_argument(
        "--dynamic", action="store_true", help="for images of every size, and batches of every size"
    )
    parser.add_argument("--batch", type=int, metavar="N", help="images that go in together (1)")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("W", "H"),
        help="width and height of the images; by default the config's db.input_size",
    )
    parser.add_argument("--out", type=Path, metavar="FILE.onnx", help="(<config>.onnx)")
    parser.add_argument("--force", action="store_true", help="overwrite --out")
    parser.add_argument("--image", metavar="FILE", help="image for the check; else one is drawn")
    options = parser.parse_args(argv)
    numbers = [*(options.size or ()), *([] if options.batch is None else [options.batch])]
    if min(numbers, default=1) < 1:
        raise UserError("--size and --batch must be at least 1")
    if options.out is not None and options.out.suffix != ".onnx":
        raise UserError(f"--out {options.out} must name an .onnx file")
    return options


def _require_free(out: Path, force: bool) -> None:
    """Refuses to overwrite a file, and a folder that is missing."""
    if out.is_dir() or (out.exists() and not force):
        raise UserError(f"{out} exists; --force overwrites a file, --out names another one")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")


def describe(loaded: LoadedDetector, settings: Settings, size: Size | None) -> Manifest:
    """Describes an export of a detector.

    Args:
        loaded: the detector.
        settings: its settings of inference.
        size: height and width of the images that it is for; None: of every size.

    Raises:
        UserError: it tests images at several scales, and the size is to be fixed.
    """
    height, width = varying_sides(settings)
    scales = loaded.config.db.test_scales
    if size is not None and not (height.fixed and width.fixed):
        if len(scales) > 1:
            raise UserError(
                f"{loaded.config.path}: each of the {len(scales)} db.test_scales is another size: "
                "export with --dynamic, or with --set db.test_scales=[1]"
            )
        height, width = map(fixed_side, canvas_size(settings, size))
    return Manifest(
        config=loaded.config.name,
        model=loaded.config.model_name,
        snapshot=loaded.snapshot.name,
        class_names=loaded.class_names,
        height=height,
        width=width,
        settings=settings,
    )


def _images(size: Size, photo: np.ndarray | None, dynamic: bool) -> list[np.ndarray]:
    """Chooses images for the check: of one size, or with ``dynamic`` also turned by a quarter."""
    if photo is None:
        drawn = draw_image(max(*size, 2 * MIN_SIDE), np.random.default_rng(0))
        photo = np.ascontiguousarray(drawn.image[: size[0], : size[1]])
    elif not dynamic:
        photo = cv2.resize(photo, (size[1], size[0]))
    return [photo, np.ascontiguousarray(np.rot90(photo))] if dynamic else [photo]


def _report(
    loaded: LoadedDetector, exported: OnnxDetector, images: list[np.ndarray], batch: int
) -> int:
    """Compares a file with PyTorch and prints what a user wants to know; returns the exit code."""
    file, manifest, write = exported.file, exported.manifest, sys.stdout.write
    height, width = (_described(side) for side in (manifest.height, manifest.width))
    write(
        f"{file}: {file.stat().st_size / 1e6:.1f} MB, opset {OPSET}\n"
        f"input: {manifest.dtype} [{exported.batch or 'any'}, 3, {height}, {width}], BGR\n"
    )
    same = compare(*([each.detections(image) for image in images] for each in (loaded, exported)))
    write(
        f"against PyTorch: {same.compared - same.missing} of {same.compared} detections agree, "
        f"boxes within {same.boxes:.1g} pixels, scores within {same.scores:.1g}\n"
    )
    together = [images[0]] * batch
    runs = [partial(_run, each, together) for each in (loaded, exported)]
    torch_time, onnx_time = median_times(runs, _ROUNDS)
    write(
        f"an image of {images[0].shape[1]} x {images[0].shape[0]}: onnxruntime "
        f"{1000 * onnx_time / batch:.0f} ms, PyTorch {1000 * torch_time / batch:.0f} ms (float32, "
        f"{torch.get_num_threads()} threads, medians of {_ROUNDS})\n"
    )
    if not same.compared:
        logger.warning(
            "nothing was compared, since no score reaches %s; give a photo of your objects as "
            "--image",
            LOWEST_SCORE,
        )
    if same.missing or same.boxes > _MOST_PIXELS or same.scores > _MOST_SCORE:
        logger.error("error: %s does not detect what PyTorch detects", file)
        return 1
    return 0


def _run(detector: ReadyDetector, images: list[np.ndarray]) -> list[Detections]:
    """Detects in images, all of them in one batch."""
    return list(detector.stream(images, len(images)))


def _described(side: Sides) -> str:
    """The lengths that a side can have."""
    if side.fixed:
        return str(side.least)
    lengths = f"{side.step} n - {side.lacking}" if side.lacking else f"{side.step} n"
    return f"{lengths} from {side.least} to {side.most}"
