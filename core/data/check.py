"""Reads a whole dataset before a run and lists what is wrong with it.

    cornerkit check CornerNet-bccd
    cornerkit check CornerNet-bccd --split val --set system.data_dir=photos

Without --split it reads the training and the validation split of the config. Exit codes: 0 if
nothing is wrong, 1 if there are problems, 2 if the dataset cannot be opened at all.
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
from .coco import CocoDetection, repair_boxes
from .images import image_problem
from .records import Records, find_mistakes, read_records, without_mistakes
from .splits import split_paths

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
    """Checks splits of a config's dataset and writes the problems to standard output.

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
    """Makes a table of a dataset: images, boxes, and the boxes of each class by size."""
    counts = dataset.box_counts()
    lines = [
        f"  {len(dataset)} images, {int((counts == 0).sum())} of them without boxes, at most "
        f"{counts.max()} boxes in one; {dataset.repaired} boxes clipped, {dataset.dropped} "
        "dropped",
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


def _annotation_problems(records: Records) -> Iterator[str]:
    """Finds repeated annotation ids, and boxes that do not lie in their image."""
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
            f"{verdict} its image {owner['file_name']} of {owner['width']} x {owner['height']}"
        )


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
