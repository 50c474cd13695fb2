"""Draws what a detector finds on pictures, folders of pictures, and videos.

python demo.py CornerNet_Squeeze street.jpg holiday/ clip.mp4 --out drawn
python demo.py CornerNet --snapshot CornerNet_500000.pkl street.jpg --threshold 0.5
"""

import argparse
from pathlib import Path

from core.detectors import load_detector
from core.errors import run
from core.evaluation.demo import draw_inputs, find_inputs


def main(words: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="config in configs/, without .json")
    parser.add_argument("inputs", nargs="+", metavar="PICTURE|FOLDER|VIDEO")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder (%(default)s)")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--testiter", type=int, metavar="N", help="iteration of the snapshot")
    weights.add_argument("--snapshot", metavar="FILE", help="file of weights; newest by default")
    parser.add_argument(
        "--threshold", type=float, default=0.3, help="lowest score to draw (%(default)s)"
    )
    parser.add_argument("--device", help="cuda, cuda:1, cpu …; a GPU if there is one by default")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override a setting of the config, as --set db.test_flipped=false",
    )
    options = parser.parse_args(words)
    inputs = find_inputs(options.inputs)
    snapshot = options.testiter if options.snapshot is None else options.snapshot
    detector = load_detector(options.name, snapshot, options.device, overrides=options.set)
    draw_inputs(detector, inputs, options.out, options.threshold)
    return 0


if __name__ == "__main__":
    run(main)
