"""Splits of a dataset: the annotation file and the image folder of each."""

import logging
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..config.errors import UserError
from ..config.loading import Db, System
from .coco import CocoDetection
from .file_names import match_file_names_
from .reconcile_sizes import reconcile_sizes_
from .records import find_mistakes, read_records

logger = logging.getLogger(__name__)

# The reference's names of COCO's splits; any other name is used as it is.
REFERENCE_SPLITS = {
    "trainval": "trainval2014",
    "minival": "minival2014",
    "testdev": "testdev2017",
}

_SHOWN = 8  # names in a message


def open_split(system: System, db: Db, split: str) -> CocoDetection:
    """Opens a split of the dataset that a config names.

    Args:
        system: ``<data_dir>/<dataset_dir>`` holds ``annotations/instances_<split>.json`` (or
            ``image_info_<split>.json``, without annotations) and ``images/<split>/``.
        db: settings for crowd boxes and for the expected number of categories.
        split: a key of :data:`REFERENCE_SPLITS`, or the split's own name.

    Raises:
        UserError: a folder, the annotation file or an image is missing (the message lists what
            there is instead), or the annotation file cannot be used.
    """
    annotation_file, image_dir = split_paths(system, split)
    records = read_records(annotation_file)
    for mistake in find_mistakes(records):
        raise UserError(f"{annotation_file}: {mistake.message}")
    agree_with_images_(records, image_dir, annotation_file)
    dataset = CocoDetection(annotation_file, image_dir, db.use_crowd, db.categories, records)
    missing = missing_images(dataset)
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(dataset)} images that {annotation_file} lists are not "
            f"in {image_dir}, which holds {_listing(image_dir)}; missing: {_some(missing)}"
        )
    return dataset


def agree_with_images_(records: dict[str, Any], image_dir: Path, annotation_file: Path) -> None:
    """Replaces names and sizes of images in records by those of the files, with a warning.

    Raises:
        UserError: as :func:`core.data.reconcile_sizes.reconcile_sizes_`.
    """
    notes = (
        match_file_names_(records["images"], image_dir),
        reconcile_sizes_(records, image_dir, annotation_file).note,
    )
    for note in filter(None, notes):
        logger.warning("%s: %s", annotation_file, note)


def split_paths(system: System, split: str) -> tuple[Path, Path]:
    """Finds the annotation file and the image folder of a split.

    Raises:
        UserError: a folder or the annotation file is missing.
    """
    name = REFERENCE_SPLITS.get(split, split)
    root = Path(system.data_dir) / system.dataset_dir
    annotation_dir, image_dir = root / "annotations", root / "images" / name
    _require_folder(annotation_dir, f"the annotations of split {split!r}")
    candidates = [annotation_dir / f"{kind}_{name}.json" for kind in ("instances", "image_info")]
    annotation_file = next((file for file in candidates if file.is_file()), None)
    if annotation_file is None:
        raise UserError(
            f"there is no annotation file {candidates[0]} for split {split!r} (nor "
            f"{candidates[1].name}); {annotation_dir} holds {_listing(annotation_dir)}"
        )
    _require_folder(image_dir, f"the images of split {split!r}")
    return annotation_file, image_dir


def missing_images(dataset: CocoDetection) -> list[str]:
    """Lists the file names of the annotation file that the image folder does not hold."""
    by_folder = defaultdict(list)
    for index in range(len(dataset)):
        path = dataset.image_path(index)
        by_folder[path.parent].append((path.name, dataset.file_name(index)))
    missing = []
    for folder, names in by_folder.items():
        present = set(os.listdir(folder)) if folder.is_dir() else set()
        missing += [file_name for name, file_name in names if name not in present]
    return missing


def _require_folder(folder: Path, purpose: str) -> None:
    if folder.is_dir():
        return
    parent = next(parent for parent in folder.absolute().parents if parent.is_dir())
    raise UserError(
        f"there is no folder {folder} for {purpose}; {parent} holds {_listing(parent)} "
        "(system.data_dir and system.dataset_dir say where the data is)"
    )


def _listing(folder: Path) -> str:
    return _some(sorted(name for name in os.listdir(folder) if not name.startswith(".")))


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f", … ({len(names)} in all)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "nothing"
