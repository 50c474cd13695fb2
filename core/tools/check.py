"""Reads a whole dataset before a run, lists what is wrong with it, and draws its boxes.

    cornerkit check CornerNet-bccd
    cornerkit check CornerNet-bccd --split val --set system.data_dir=photos
    cornerkit check CornerNet-bccd --draw 32
    cornerkit check CornerNet-bccd --draw 32 --augmented --out sheets

Without --split it reads the training and the validation split of the config. Its table gives the
median of the boxes' sides (the square root of their area) in pixels, and of width by height. A
problem would hurt a training; a note is about what is repaired when the dataset is opened. Exit
codes: 0 if there are no problems, 1 if there are, 2 if the dataset cannot be opened at all.

--draw draws images that are spread evenly over a split, on sheets of 16, with the boxes that
training takes; with --augmented the crops, flips and colours, too, that the config's detector gets
in its first epoch, by default of the training split alone.
"""

import sys
from pathlib import Path

from ..cli import add_config_arguments, plain_parser
from ..config.errors import UserError
from ..config.loading import Config, load_config
from ..data.check import check
from ..data.coco import CocoDetection
from ..evaluation.sheets import augmented_drawings, plain_drawings, spread_evenly, write_sheets


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit code."""
    parser = plain_parser("check", __doc__)
    add_config_arguments(parser)
    parser.add_argument("--suffix", help="use <config>-<suffix>.json")
    parser.add_argument("--split", action="append", help="name of a split; may be repeated")
    parser.add_argument("--draw", type=int, metavar="N", help="draw so many images of each split")
    parser.add_argument("--augmented", action="store_true", help="draw them as training gets them")
    parser.add_argument(
        "--out", type=Path, default=Path("check"), metavar="FOLDER", help="of sheets (%(default)s)"
    )
    options = parser.parse_args(argv)
    if options.augmented and options.draw is None:
        parser.error("argument --augmented: needs --draw N")
    if options.draw is not None and options.draw < 1:
        parser.error(f"argument --draw: {options.draw} must be at least 1")
    config = load_config(options.config, options.suffix, options.set, options.config_dir)
    system = config.system
    splits = options.split or [system.train_split, system.val_split]
    problems, datasets = check(config, list(dict.fromkeys(splits)))
    if options.augmented and not options.split and system.val_split != system.train_split:
        datasets.pop(system.val_split, None)  # training does not augment it
    if options.draw is not None:
        _draw(datasets, options.draw, options.out, config if options.augmented else None)
    return 1 if problems else 0


def _draw(
    datasets: dict[str, CocoDetection], wanted: int, out: Path, augmented: Config | None
) -> None:
    """Draws images of splits and writes the paths of the sheets to standard output.

    Args:
        datasets: the splits, by name.
        wanted: number of images of each.
        out: folder of the sheets.
        augmented: config by which they are augmented; None: they are drawn as they are.
    """
    for split, dataset in datasets.items():
        indices = spread_evenly(len(dataset), wanted)
        drawings, name = plain_drawings(dataset, indices), split
        if augmented is not None:
            drawings = augmented_drawings(dataset, indices, augmented)
            name = f"{split}_augmented"
        try:
            for path in write_sheets(drawings, out, name):
                sys.stdout.write(f"drew {path}\n")
        except OSError as error:
            raise UserError(f"--out {out} cannot be written: {error.strerror}") from None
