"""A check of a whole dataset before a run: lists what is wrong with it.

A problem would hurt a training; a note is about what is repaired when the dataset is opened.
"""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from ..config.errors import UserError
from ..config.loading import Config
from .coco import CocoDetection
from .columns import counted
from .formats.source import Source
from .images import image_problem
from .plausibility import dominant_class
from .record_values import shown
from .records import Records
from .splits import agree_with_images, read_source
from .summary import summary
from .tables import Tables, read_tables


def check(config: Config, splits: list[str]) -> tuple[int, dict[str, CocoDetection]]:
    """Checks splits of a config's dataset and writes what it finds to standard output.

    Returns:
        Number of problems; and by the splits' names their datasets, as far as they can be opened.

    Raises:
        UserError: a folder or an annotation file is missing, or is not a COCO file.
    """
    sources = [read_source(config.system, split) for split in splits]
    total = 0
    datasets: dict[str, CocoDetection] = {}
    names: dict[tuple[str, ...], str] = {}
    for split, source in zip(splits, sources, strict=True):
        _write(f"{split}: {source.label_path}, images in {source.image_dir}")
        tables, notes, problems = _read(source)
        expected, found = config.db.categories, len(source.records["categories"])
        if expected not in (None, found):
            problems.append(f"db.categories says {expected}, the file holds {found} categories")
        if tables.images.names and (tables.categories.names or not tables.has_annotations):
            dataset = CocoDetection(
                source.label_path, source.image_dir, config.db.use_crowd, None, tables, strict=False
            )
            problems += [*dataset.problems, *_image_problems(dataset)]
            if dataset.has_annotations and not dataset.box_counts().any():
                problems.append("there are no boxes to train on or to compare with")
            notes += [*dataset.notes, *_class_notes(dataset)]
            names.setdefault(dataset.class_names, split)
            if len(names) > 1:
                problems.append(f"other categories than in split {next(iter(names.values()))!r}")
            datasets[split] = dataset
            _write(summary(dataset))
        else:
            problems.append("no usable images or categories")
        for note in notes:
            _write(f"  note: {note}")
        for problem in problems:
            _write(f"  problem: {problem}")
        _write(f"{split}: problems found: {len(problems)}\n")
        total += len(problems)
    return total, datasets


def _read(source: Source) -> tuple[Tables, list[str], list[str]]:
    """Reads the records of a split as training does; returns notes and problems, too."""
    tables = read_tables(source.records)
    notes = [*source.notes, *_id_notes(source.records)]
    problems = [mistake.message for mistake in tables.mistakes]
    try:
        tables, replaced = agree_with_images(tables, source)
        notes += replaced
    except UserError as error:
        problems.append(str(error).removeprefix(f"{source.label_path}: "))
    return tables, notes, problems


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
    sys.stdout.write(line + "\n")
