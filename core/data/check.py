"""Reads a whole data set before a run and lists what is wrong with it.

    python -m core.data.check CornerNet_Squeeze-bccd [--split val] [--set system.data_dir=DIR]

Without ``--split``, the training and the validation split of the config. Exit code 0: nothing is
wrong; 1: the problems are listed; 2: the data set cannot be opened at all.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from ..config.errors import run
from ..config.loading import Config, load_config
from .coco import CocoDetection, repair_boxes
from .images import image_problem
from .records import Records, find_mistakes, read_records, without_mistakes
from .splits import split_paths

_AREAS = (32**2, 96**2)  # COCO's borders between small, medium and large boxes, in square pixels


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m core.data.check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="a config's name, or the path of a .json file")
    parser.add_argument("--suffix", help="as in evaluate.py")
    parser.add_argument("--split", action="append", help="a split's name; may be repeated")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    options = parser.parse_args(arguments)
    config = load_config(options.config, options.suffix, options.set)
    splits = options.split or [config.system.train_split, config.system.val_split]
    return 1 if check(config, list(dict.fromkeys(splits))) else 0


def check(config: Config, splits: list[str]) -> int:
    """Checks splits of a config's data set and writes the findings to standard output.

    Returns:
        The number of problems.

    Raises:
        UserError: a folder or an annotation file is missing or no COCO file.
    """
    paths = [split_paths(config.system, split) for split in splits]
    total = 0
    names: dict[tuple[str, ...], str] = {}
    for split, (annotation_file, image_dir) in zip(splits, paths, strict=True):
        _write(f"{split}: {annotation_file}, pictures in {image_dir}")
        records = read_records(annotation_file)
        mistakes = list(find_mistakes(records))
        usable = without_mistakes(records, mistakes)
        problems = [mistake.message for mistake in mistakes]
        problems += _annotation_problems(usable)
        expected, found = config.db.categories, len(records["categories"])
        if expected not in (None, found):
            problems.append(f"db.categories says {expected}, the file holds {found} categories")
        if usable["images"] and (usable["categories"] or usable["annotations"] is None):
            dataset = CocoDetection(annotation_file, image_dir, config.db.use_crowd, None, usable)
            problems += _image_problems(dataset)
            names.setdefault(dataset.class_names, split)
            if len(names) > 1:
                problems.append(f"other categories than in split {next(iter(names.values()))!r}")
            _write(summary(dataset))
        else:
            problems.append("no usable images or categories")
        for problem in problems:
            _write(f"  problem: {problem}")
        _write(f"{split}: problems found: {len(problems)}\n")
        total += len(problems)
    return total


def summary(dataset: CocoDetection) -> str:
    """A table of a data set: pictures, boxes, and the boxes of each class by size."""
    counts = dataset.box_counts()
    lines = [
        f"  {len(dataset)} pictures, {int((counts == 0).sum())} of them without boxes, at most "
        f"{counts.max()} boxes in one; {dataset.repaired} boxes clipped, {dataset.dropped} "
        "dropped",
        f"  {'class':24}{'pictures':>10}{'boxes':>10}{'small':>10}{'medium':>10}{'large':>10}",
    ]
    classes = len(dataset.class_names)
    pictures = np.zeros(classes, np.int64)
    sizes = np.zeros((classes, 3), np.int64)
    for index in np.flatnonzero(counts).tolist():
        boxes, labels = dataset.boxes(index), dataset.labels(index)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        np.add.at(sizes, (labels, np.searchsorted(_AREAS, areas, side="right")), 1)
        pictures[np.unique(labels)] += 1
    pictures = np.append(pictures, (counts > 0).sum())
    sizes = np.concatenate([sizes, sizes.sum(axis=0, keepdims=True)])
    for name, with_it, by_size in zip((*dataset.class_names, "all"), pictures, sizes, strict=True):
        numbers = "".join(f"{number:>10}" for number in (with_it, by_size.sum(), *by_size))
        lines.append(f"  {name:24}{numbers}")
    return "\n".join(lines)


def _annotation_problems(records: Records) -> Iterator[str]:
    """Doubled annotation ids and boxes that do not lie in their picture."""
    annotations = records["annotations"] or []
    ids = Counter(str(annotation.get("id")) for annotation in annotations)
    for identity, times in ids.items():
        if times > 1 or identity == "None":
            problem = "without an id" if identity == "None" else f"with id {identity}"
            yield f"{times} annotations {problem}; evaluation needs one each"
    images = {image["id"]: image for image in records["images"]}
    owners = [images[annotation["image_id"]] for annotation in annotations]
    sizes = np.array([(owner["height"], owner["width"]) for owner in owners]).reshape(-1, 2)
    xywh = np.array([annotation["bbox"] for annotation in annotations], np.float64).reshape(-1, 4)
    _, kept, repaired = repair_boxes(xywh, sizes)
    for row in np.flatnonzero(~kept | repaired):
        owner, box = owners[row], annotations[row]["bbox"]
        verdict = "reaches out of" if kept[row] else "has no width or height inside"
        yield (
            f"annotation {annotations[row].get('id', row)}: box [x, y, width, height] {box} "
            f"{verdict} its picture {owner['file_name']} of {owner['width']} x {owner['height']}"
        )


def _image_problems(dataset: CocoDetection) -> list[str]:
    """Reads every picture, in threads: decoding leaves Python's lock."""
    paths = (dataset.image_path(index) for index in range(len(dataset)))
    sizes = (tuple(size) for size in dataset.sizes.tolist())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(image_problem, paths, sizes)
        progress = tqdm(found, "pictures", len(dataset), leave=False, disable=None)
        return [problem for problem in progress if problem is not None]


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    run(main)
