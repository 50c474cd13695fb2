"""Draws what a detector finds in images, folders of images, videos, and images of a webcam.

    python demo.py CornerNet_Squeeze street.jpg holiday/ "trip/**/*.png" clip.mp4 --out drawn
    python demo.py CornerNet --snapshot CornerNet_500000.pkl street.jpg --threshold 0.5
    python demo.py CornerNet_Squeeze holiday/ --classes person,car --save-json found.json
    python demo.py CornerNet_Squeeze map.tif --tile 1024 --overlap 0.2
    python demo.py CornerNet_Squeeze 0 --out drawn              # webcam 0, until Ctrl-C
    python demo.py --onnx CornerNet_Squeeze.onnx street.jpg     # what cornerkit export wrote

The drawings go into the folder of --out, under the names of the inputs. Outputs that are there
already are refused before anything is detected; --force overwrites them.
"""

import argparse
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

from ..cli import add_snapshot_arguments, command_parser, load_chosen_detector, plain_parser
from ..config.errors import UserError
from ..inference.tiles import ImageDetector, TiledDetector
from .detect_images import draw_images
from .detect_job import Job, choose_labels
from .detect_video import draw_video, require_window
from .detected_coco import DetectedCoco
from .outputs import plan_outputs
from .sources import Source, find_sources

logger = logging.getLogger(__name__)

_OVERLAP = 0.2  # of a tile, unless --overlap says otherwise
_MOST_OVERLAP = 0.9
_SMALLEST_TILE = 64  # pixels


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit code."""
    options = _parse(argv)
    sources = find_sources(options.inputs)  # before the weights, which can take a while to load
    outputs = plan_outputs(
        sources, options.out, options.save_json, options.save_crops, options.force
    )
    detector = _load(options)
    labels = choose_labels(detector.class_names, options.classes)
    if options.show:
        require_window()
    if options.tile:
        detector = TiledDetector(detector, options.tile, options.overlap)
    coco = None if options.save_json is None else DetectedCoco(detector.class_names)
    job = Job(detector, outputs, options.threshold, labels, options.batch, coco)
    draw_sources(job, sources, options.show)
    return 0


def draw_sources(job: Job, sources: Sequence[Source], shown: bool = False) -> None:
    """Draws what a detector finds in each source, and logs a line about it.

    The results file is written at the end, after Ctrl-C too.

    Args:
        job: detector and outputs.
        sources: images, videos and webcams.
        shown: True: show the frames of videos and webcams in a window too.

    Raises:
        UserError: a source was skipped, after all others were drawn; or the results cannot be
            written.
    """
    skipped: list[Source] = []
    try:
        for still, group in itertools.groupby(sources, lambda source: source.kind == "image"):
            some = list(group)
            skipped += draw_images(job, some) if still else _draw_videos(job, some, shown)
    finally:
        if job.coco is not None and job.outputs.results is not None:
            job.coco.write(job.outputs.results)
            logger.info("the detections are in %s", job.outputs.results)
    if skipped:
        names = ", ".join(str(source) for source in sources if source in skipped)
        raise UserError(f"{len(skipped)} of {len(sources)} inputs were skipped: {names}")


def _draw_videos(job: Job, sources: Sequence[Source], shown: bool) -> list[Source]:
    """Draws on videos; returns those that were skipped, with a warning."""
    skipped: list[Source] = []
    for source in sources:
        try:
            found = draw_video(job, source, shown)
            logger.info("%s: %s -> %s", source, found, job.outputs.drawings[source])
        except UserError as error:
            logger.warning("skipped: %s", error)
            skipped.append(source)
    return skipped


def _parse(argv: list[str]) -> argparse.Namespace:
    """Parses arguments; with --onnx there is no config among them."""
    of_file = any(word.split("=")[0] == "--onnx" for word in argv)
    parser = (plain_parser if of_file else command_parser)("detect", __doc__)
    if not of_file:
        add_snapshot_arguments(parser)
    parser.add_argument("inputs", nargs="+", metavar="IMAGE|FOLDER|PATTERN|VIDEO|WEBCAM")
    parser.add_argument(
        "--onnx", type=Path, metavar="FILE", help="a detector of cornerkit export, for a config"
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder (%(default)s)")
    parser.add_argument("--force", action="store_true", help="overwrite outputs from before")
    parser.add_argument(
        "--threshold", type=float, default=0.3, help="lowest score of a detection (%(default)s)"
    )
    parser.add_argument(
        "--classes", action="append", default=[], metavar="NAME,…", help="only these; repeatable"
    )
    parser.add_argument(
        "--save-json", type=Path, metavar="FILE", help="write the detections too, as a COCO file"
    )
    parser.add_argument(
        "--save-crops", action="store_true", help="cut the objects out, into OUT/crops/CLASS/"
    )
    parser.add_argument(
        "--batch", type=int, default=0, metavar="N", help="images a batch (0: what is fast)"
    )
    parser.add_argument("--tile", type=int, metavar="PIXELS", help="detect in tiles of this side")
    parser.add_argument(
        "--overlap", type=float, metavar="PART", help=f"of a tile and the next ({_OVERLAP})"
    )
    parser.add_argument("--show", action="store_true", help="show videos in a window; q ends it")
    options = parser.parse_args(argv)
    _check(parser, options)
    return options


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuses values that cannot be."""
    if not 0 <= options.threshold <= 1:
        raise UserError(f"the threshold {options.threshold} must be between 0 and 1")
    if options.batch < 0:
        parser.error(f"argument --batch: {options.batch} must not be negative")
    if options.tile is None:
        if options.overlap is not None:
            parser.error("argument --overlap: needs --tile PIXELS")
    elif options.tile < _SMALLEST_TILE:
        parser.error(f"argument --tile: {options.tile} must be at least {_SMALLEST_TILE}")
    if options.overlap is None:
        options.overlap = _OVERLAP
    elif not 0 <= options.overlap <= _MOST_OVERLAP:
        parser.error(f"argument --overlap: {options.overlap} must be from 0 to {_MOST_OVERLAP}")


def _load(options: argparse.Namespace) -> ImageDetector:
    """Loads the detector that parsed arguments choose."""
    if options.onnx is None:
        return load_chosen_detector(options)
    from ..export.onnx_detector import OnnxDetector

    return OnnxDetector(options.onnx)
