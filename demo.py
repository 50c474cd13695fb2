"""Draws what a detector finds on pictures, folders of pictures, and videos.

python demo.py CornerNet_Squeeze street.jpg holiday/ clip.mp4 --out drawn
python demo.py CornerNet --snapshot CornerNet_500000.pkl street.jpg --threshold 0.5
"""

from pathlib import Path

from core.cli import add_snapshot_arguments, load_chosen_detector, script_parser
from core.config.errors import run
from core.tools.detect import draw_inputs, find_inputs


def main(words: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = script_parser(__doc__)
    add_snapshot_arguments(parser)
    parser.add_argument("inputs", nargs="+", metavar="PICTURE|FOLDER|VIDEO")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder (%(default)s)")
    parser.add_argument(
        "--threshold", type=float, default=0.3, help="lowest score to draw (%(default)s)"
    )
    options = parser.parse_args(words)
    files = find_inputs(options.inputs)  # before the weights, which can take a while
    draw_inputs(load_chosen_detector(options), files, options.out, options.threshold)
    return 0


if __name__ == "__main__":
    run(main)
