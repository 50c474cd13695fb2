"""Writes a dataset of any known format in COCO's format and folders.

    cornerkit convert cells cells-coco
    cornerkit convert cells cells-coco --val-share 0.1

The annotations become OUT/annotations/instances_<split>.json. The images appear in
OUT/images/<split>/ as second names of the same files (hard links), or as copies where the file
system has no links. Without a split to validate with, the images to train with are divided.
Boxes are written as training sees them, repaired and inside their images. Outlines and masks are
left out; docs/data.md lists the formats.
"""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..checkpoint.files import write_together
from ..cli import plain_parser
from ..config.errors import UserError
from ..config.schema import Db, System
from ..data.coco import CocoDetection
from ..data.formats.source import count_of
from ..data.splits import open_source, read_splits

_DECIMALS = 3  # of a pixel: boxes are kept in float32


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
    # What cannot be trained on is found before anything is written.
    datasets = {split: open_source(found, Db()) for split, found in splits.items()}
    for split, dataset in datasets.items():
        try:
            line = _write(split, dataset, out)
        except OSError as error:
            raise UserError(f"{out}: cannot be written: {error.strerror}") from None
        sys.stdout.write(f"{split}: {line}\n")


def _write(split: str, dataset: CocoDetection, out: Path) -> str:
    """Writes a split, its annotation file last; returns a line about it."""
    names = [dataset.file_name(index) for index in range(len(dataset))]
    for name in names:
        _link(dataset.image_dir / name, out / "images" / split / name)
    images = [
        {"id": identity, "file_name": name, "height": height, "width": width}
        for identity, name, (height, width) in zip(
            dataset.image_ids.tolist(), names, dataset.sizes.tolist(), strict=True
        )
    ]
    categories = [
        {"id": identity, "name": name}
        for identity, name in zip(dataset.category_ids.tolist(), dataset.class_names, strict=True)
    ]
    content: dict[str, Any] = {"images": images, "categories": categories}
    if dataset.has_annotations:
        content["annotations"] = list(_annotations(dataset))
    kind = "instances" if dataset.has_annotations else "image_info"
    file = out / "annotations" / f"{kind}_{split}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_together({file: lambda opened: opened.write(json.dumps(content).encode("utf-8"))})
    counts = (
        count_of(len(images), "image"),
        count_of(len(content.get("annotations", ())), "box", "boxes"),
        count_of(len(categories), "class", "classes"),
    )
    return f"{', '.join(counts)} in {file}"


def _annotations(dataset: CocoDetection) -> Iterator[dict[str, Any]]:
    """Yields the objects of a dataset as COCO's records, their repaired boxes in pixels."""
    truth = dataset.truth()
    image_ids = dataset.image_ids[truth.images].tolist()
    category_ids = dataset.category_ids[truth.labels].tolist()
    boxes = truth.boxes.round(_DECIMALS).tolist()
    areas, crowd = truth.areas.round(_DECIMALS).tolist(), truth.crowd.astype(int).tolist()
    for number, values in enumerate(
        zip(image_ids, category_ids, boxes, areas, crowd, strict=True), 1
    ):
        keys = ("image_id", "category_id", "bbox", "area", "iscrowd")
        yield {"id": number, **dict(zip(keys, values, strict=True))}


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
