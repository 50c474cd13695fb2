"""Writes a dataset of any known format in COCO's format and folders.

    cornerkit convert cells cells-coco
    cornerkit convert cells cells-coco --val-share 0.1

The annotations become OUT/annotations/instances_<split>.json. The images appear in
OUT/images/<split>/ as second names of the same files (hard links), or as copies where the file
system has no links. Without a split to validate with, the images to train with are divided.
Outlines and masks are left out; docs/data.md lists the formats.
"""

import contextlib
import json
import os
import shutil
import sys
from pathlib import Path

from ..checkpoint.files import write_together
from ..cli import plain_parser
from ..config.errors import UserError
from ..config.schema import Db, System
from ..data.formats.source import Source, count_of
from ..data.splits import open_source, read_splits


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit code."""
    parser = plain_parser("convert", __doc__)
    parser.add_argument("source", type=Path, metavar="IN", help="folder of a dataset")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; made if missing")
    parser.add_argument(
        "--val-share",
        type=float,
        default=System.val_share,
        metavar="F",
        help="fraction to validate with, if IN has no splits (%(default)g)",
    )
    parser.add_argument(
        "--force", action="store_true", help="write into a folder that is not empty"
    )
    options = parser.parse_args(argv)
    if not 0 < options.val_share < 1:
        raise UserError(f"--val-share {options.val_share:g} must be above 0 and below 1")
    convert(options.source, options.out, options.val_share, options.force)
    return 0


def convert(root: Path, out: Path, val_share: float, force: bool = False) -> None:
    """Converts a dataset, and writes the counts of each split to standard output.

    Args:
        root: folder of the dataset.
        out: folder to write.
        val_share: fraction of the images to validate with, where there are no splits.
        force: write into a folder that is not empty; files of the same names are replaced.

    Raises:
        UserError: the dataset cannot be read, has mistakes, or lacks images, or ``out`` cannot be
            written or holds something.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}")
    source, target = root.resolve(), out.resolve()
    if source in (target, *target.parents) or target in source.parents:
        raise UserError(f"{out} and {root} must lie beside each other, none in the other")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a folder to write to")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise UserError(f"{out} is not empty; name a new folder, or give --force to write into it")
    splits = read_splits(root, val_share)
    for found in splits.values():
        open_source(found, Db())  # what cannot be trained on is found before anything is written
    for split, found in splits.items():
        try:
            line = _write(split, found, out)
        except OSError as error:
            raise UserError(f"{out}: cannot be written: {error.strerror}") from None
        sys.stdout.write(f"{split}: {line}\n")


def _write(split: str, source: Source, out: Path) -> str:
    """Writes a split, its annotation file last; returns a line about it."""
    records = source.records
    for image in records["images"]:
        _link(source.image_dir / image["file_name"], out / "images" / split / image["file_name"])
    kind = "image_info" if records["annotations"] is None else "instances"
    file = out / "annotations" / f"{kind}_{split}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {key: rows for key, rows in records.items() if rows is not None}
    write_together({file: lambda opened: opened.write(json.dumps(content).encode("utf-8"))})
    counts = (
        count_of(len(records["images"]), "image"),
        count_of(len(records["annotations"] or ()), "box", "boxes"),
        count_of(len(records["categories"]), "class", "classes"),
    )
    return f"{', '.join(counts)} in {file}"


def _link(path: Path, target: Path) -> None:
    """Gives a file a second name, or copies it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # A name that is there is freed first: writing into it could change the image that it links to.
    with contextlib.suppress(FileNotFoundError):
        target.unlink()
    try:
        os.link(path.resolve(), target)
    except OSError:
        shutil.copyfile(path, target)
