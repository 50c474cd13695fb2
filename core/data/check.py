"""Reads a whole dataset before a run and lists what is wrong with it.

    cornerkit check CornerNet-bccd [--split val] [--set system.data_dir=DIR]

Without --split it reads the training and the validation split of the config. A problem would hurt a
training; a note is about what is repaired when the dataset is opened. Exit codes: 0 if there are no
problems, 1 if there are, 2 if the dataset cannot be opened at all.
"""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from ..cli import plain_parser
from ..config.loading import Config, load_config
from .coco import CocoDetection
from .columns import counted
from .images import image_problem
from .plausibility import dominant_class
from .record_values import shown
from .records import Records, read_records
from .splits import split_paths
from .tables import read_tables

# COCO's limits between small, medium and large boxes, in square pixels.
_AREA_LIMITS = (32**2, 96**2)


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit code."""
    parser = plain_parser("check", __doc__)
    parser.add_argument("config", help="a config's name, or the path of a .json file")
    parser.add_argument("--suffix", help="use <config>-<suffix>.json")
    parser.add_argument("--split", action="append", help="name of a split; may be repeated")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override a setting"
    )
    options = parser.parse_args(argv)
    config = load_config(options.config, options.suffix, options.set)
    splits = options.split or [config.system.train_split, config.system.val_split]
    return 1 if check(config, list(dict.fromkeys(splits))) else 0


def check(config: Config, splits: list[str]) -> int:
    """Checks splits of a config's dataset and writes what it finds to standard output.

    Returns:
        Number of problems.

    Raises:
        UserError: a folder or an annotation file is missing, or is not a COCO file.
    """
    paths = [split_paths(config.system, split) for split in splits]
    total = 0
    names: dict[tuple[str, ...], str] = {}
    for split, (annotation_file, image_dir) in zip(splits, paths, strict=True):
        _write(f"{split}: {annotation_file}, images in {image_dir}")
        records = read_records(annotation_file)
        tables = read_tables(records)
        problems = [mistake.message for mistake in tables.mistakes]
        notes = list(_id_notes(records))
        expected, found = config.db.categories, len(records["categories"])
        if expected not in (None, found):
            problems.append(f"db.categories says {expected}, the file holds {found} categories")
        if tables.images.names and (tables.categories.names or not tables.has_annotations):
            dataset = CocoDetection(annotation_file, image_dir, config.db.use_crowd, None, tables)
            problems += [*dataset.problems, *_image_problems(dataset)]
            if dataset.has_annotations and not dataset.box_counts().any():
                problems.append("there are no boxes to train on or to compare with")
            notes += [*dataset.notes, *_class_notes(dataset)]
            names.setdefault(dataset.class_names, split)
            if len(names) > 1:
                problems.append(f"other categories than in split {next(iter(names.values()))!r}")
            _write(summary(dataset))
        else:
            problems.append("no usable images or categories")
        for note in notes:
            _write(f"  note: {note}")
        for problem in problems:
            _write(f"  problem: {problem}")
        _write(f"{split}: problems found: {len(problems)}\n")
        total += len(problems)
    return total


def summary(dataset: CocoDetection) -> str:
    """Makes a table of a dataset: images, boxes, and the boxes of each class by size."""
    counts = dataset.box_counts()
    lines = [
        f"  {len(dataset)} images, {int((counts == 0).sum())} of them without boxes, at most "
        f"{counts.max()} boxes in one; {dataset.repaired} boxes clipped, "
        f"{dataset.dropped + dataset.repeated} dropped",
        f"  {'class':24}{'images':>10}{'boxes':>10}{'small':>10}{'medium':>10}{'large':>10}",
    ]
    classes = len(dataset.class_names)
    images = np.zeros(classes, np.int64)
    sizes = np.zeros((classes, 3), np.int64)
    for index in np.flatnonzero(counts).tolist():
        boxes, labels = dataset.boxes(index), dataset.labels(index)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        np.add.at(sizes, (labels, np.searchsorted(_AREA_LIMITS, areas, side="right")), 1)
        images[np.unique(labels)] += 1
    images = np.append(images, (counts > 0).sum())
    sizes = np.concatenate([sizes, sizes.sum(axis=0, keepdims=True)])
    names = (*dataset.class_names, "all")
    for name, image_count, by_size in zip(names, images, sizes, strict=True):
        numbers = "".join(f"{number:>10}" for number in (image_count, by_size.sum(), *by_size))
        lines.append(f"  {name:24}{numbers}")
    return "\n".join(lines)


def _id_notes(records: Records) -> Iterator[str]:
    """Counts annotations without an id, or with that of another; nothing here needs their ids."""
    ids = Counter(shown(record.get("id")) for record in records["annotations"] or ())
    missing = ids.pop(shown(None), 0)
    repeated = [identity for identity, count in ids.items() if count > 1]
    if missing:
        yield f"{counted(missing, 'annotations')} without an id; other tools may need one"
    if repeated:
        yield (
            f"several annotations have the same id: {len(repeated)} such ids, as {repeated[0]}; "
            "other tools may need one for each"
        )


def _class_notes(dataset: CocoDetection) -> Iterator[str]:
    """Finds classes without boxes, and one that has nearly all of them."""
    counts = np.bincount(dataset.truth().labels, minlength=len(dataset.class_names))
    empty = [name for name, count in zip(dataset.class_names, counts, strict=True) if not count]
    if empty and counts.any():
        yield f"{counted(len(empty), 'categories')} without boxes, such as {shown(empty[0])}"
    if (line := dominant_class(dataset.class_names, counts)) is not None:
        yield line


def _image_problems(dataset: CocoDetection) -> list[str]:
    """Checks every image, in threads: decoding releases Python's lock."""
    paths = (dataset.image_path(index) for index in range(len(dataset)))
    sizes = (tuple(size) for size in dataset.sizes.tolist())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(image_problem, paths, sizes)
        progress = tqdm(found, "images", len(dataset), leave=False, disable=None)
        return [problem for problem in progress if problem is not None]


def _write(line: str) -> None:
    # A file name may hold characters that the terminal's encoding lacks.
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
