"""Splits of a dataset: the records and the image folder of each, whatever its format."""

import logging
import os
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..config.errors import UserError
from ..config.loading import Db, System
from .coco import CocoDetection
from .division import divide
from .file_names import absent_names, match_file_names
from .formats.recognition import recognise
from .formats.source import SPLIT_WORDS, Layout, Source, is_image, split_kind, split_word
from .reconcile_sizes import reconcile_sizes
from .records import read_records
from .tables import Tables, read_tables

logger = logging.getLogger(__name__)

# The reference's names of COCO's splits; any other name is used as it is.
REFERENCE_SPLITS = {
    "trainval": "trainval2014",
    "minival": "minival2014",
    "testdev": "testdev2017",
}

# Splits to take for one, in this order.
_INSTEAD = {"train": ("train",), "val": ("val", "test"), "test": ("test", "val")}
_COCO_KINDS = ("instances", "image_info")  # of annotation files; the second has no annotations
_SHOWN = 8  # names in a message


def open_split(system: System, db: Db, split: str) -> CocoDetection:
    """Opens a split of the dataset that a config names.

    Args:
        system: says where the data is, as for :func:`read_source`.
        db: settings for crowd boxes, for the expected number of categories, and for scoring.
        split: a key of :data:`REFERENCE_SPLITS`, or the split's own name.

    Raises:
        UserError: a folder, the annotation file or an image is missing (the message lists what
            there is instead), or the annotations cannot be used.
    """
    return open_source(read_source(system, split), db)


def open_source(source: Source, db: Db) -> CocoDetection:
    """Checks and packs the records of a split.

    Raises:
        UserError: an image is missing, or the records cannot be used.
    """
    for note in source.notes:
        logger.info("%s: %s", source.label_path, note)
    tables = read_tables(source.records)
    if not tables.mistakes:
        tables, notes = agree_with_images(tables, source)
        for note in notes:
            logger.warning("%s: %s", source.label_path, note)
    dataset = CocoDetection(
        source.label_path,
        source.image_dir,
        db.use_crowd,
        db.categories,
        tables,
        reference_truth=db.reference_scoring,
    )
    missing = missing_images(dataset)
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(dataset)} images that {source.label_path} lists are not "
            f"in {source.image_dir}, which holds {_listing(source.image_dir)}; missing: "
            f"{_some(missing)}"
        )
    return dataset


def agree_with_images(tables: Tables, source: Source) -> tuple[Tables, list[str]]:
    """Replaces names and sizes of images by those of the files, and turns boxes with images.

    Returns:
        The tables, and a line for each kind of replacement.

    Raises:
        UserError: as :func:`core.data.reconcile_sizes.reconcile_sizes`.
    """
    names, about_names = match_file_names(tables.images.names, source.image_dir)
    tables = replace(tables, images=tables.images._replace(names=names))
    tables, report = reconcile_sizes(tables, source.image_dir, source.label_path)
    return tables, [note for note in (about_names, report.note) if note]


def read_source(system: System, split: str) -> Source:
    """Reads the raw records of a split, whatever the format of the dataset.

    Args:
        system: ``<data_dir>/<dataset_dir>`` holds COCO's folders, ``annotations/instances_<split>
            .json`` (or ``image_info_<split>.json``, without annotations) and ``images/<split>/``,
            or is in another format that :func:`~.formats.recognition.recognise` knows.
        split: a key of :data:`REFERENCE_SPLITS`, or the split's own name.

    Raises:
        UserError: a folder or a file is missing or cannot be read.
    """
    root = Path(system.data_dir) / system.dataset_dir
    own = _is_coco_split(root, REFERENCE_SPLITS.get(split, split)) or has_coco_folders(root)
    if root.is_dir() and not own:
        layout = recognise(root)
        if layout is not None:
            return choose_split(layout, split, system.val_share)
    annotation_file, image_dir = _coco_paths(root, split)
    return Source(read_records(annotation_file), image_dir, annotation_file)


def read_splits(root: Path, val_share: float) -> dict[str, Source]:
    """Reads all splits of a dataset, under the names ``train``, ``val``, ``test``, if they fit.

    Args:
        root: folder of a dataset of any format.
        val_share: fraction of the images to validate with, where there is no split for it.

    Raises:
        UserError: it is of no known format, or a split cannot be read.
    """
    layout = coco_layout(root) if has_coco_folders(root) else recognise(root)
    if layout is None:
        raise UserError(
            f"{root} is in none of the formats of COCO, YOLO and Pascal VOC; it holds "
            f"{_listing(root)}"
        )
    kinds = [split_kind(name) for name in layout.splits]
    names = {
        name if kinds.count(kind) > 1 else kind or name: name
        for name, kind in zip(layout.splits, kinds, strict=True)
    }
    if "val" in kinds or "test" in kinds:
        return {name: _described(layout, own) for name, own in names.items()}
    return {split: choose_split(layout, split, val_share) for split in ("train", "val")}


def coco_layout(root: Path) -> Layout:
    """Describes COCO's folders."""

    def read(name: str) -> Source:
        annotation_file, image_dir = _coco_paths(root, name)
        return Source(read_records(annotation_file), image_dir, annotation_file)

    splits = {name: partial(read, name) for name in coco_names(root)}
    return Layout(root, "COCO's folders", splits)


def choose_split(layout: Layout, split: str, val_share: float) -> Source:
    """Reads a split of a recognised folder, under the name that the folder has for it.

    Where there is no split to validate with, the test split is used; where there is none either,
    the images to train with are divided.

    Args:
        layout: the folder.
        split: name of the split; ``val``, ``valid``, ``validation`` and so on are the same, and
            digits do not count.
        val_share: fraction of the images to validate with, where they are divided.

    Raises:
        UserError: there is no such split, or it cannot be read.
    """
    kind = split_kind(split)
    by_kind = {kind: _names_of(layout, kind) for kind in SPLIT_WORDS}
    names = [name for name in (split, split_word(split)) if name and name in layout.splits]
    names += [name for other in _INSTEAD.get(kind or "", ()) for name in by_kind[other]]
    is_divided = not by_kind["val"] and not by_kind["test"]
    if names and not (is_divided and kind == "train"):
        return _described(layout, names[0])
    if not is_divided or kind is None or not by_kind["train"]:
        there = ", ".join(name for name in layout.splits if name) or "none"
        raise UserError(
            f"{layout.root}, {layout.description}, has no split {split!r}; its splits: {there}"
        )
    training = (names or by_kind["train"])[0]
    source = _described(layout, training)
    parts = divide(source.records, val_share)
    counts = [len(part["images"]) for part in parts]
    if sum(counts) > len(source.records["images"]):
        note = "its only image is trained and validated with, for lack of others"
    else:
        note = (
            f"no split to validate with: {counts[0]} images train and {counts[1]} validate, chosen "
            f"by their names (system.val_share {val_share:g})"
        )
    return source._replace(records=parts[0 if kind == "train" else 1], notes=(*source.notes, note))


def coco_names(root: Path) -> list[str]:
    """Lists the splits that a dataset has an annotation file of in COCO's folders."""
    folder = root / "annotations"
    names = (
        file.stem.removeprefix(f"{kind}_")
        for kind in _COCO_KINDS
        for file in folder.glob(f"{kind}_*.json")
    )
    return sorted(set(names))


def has_coco_folders(root: Path) -> bool:
    """Tells whether a dataset is meant to be in COCO's folders, even if a file is missing.

    The annotation files have their names, and the images are in folders of ``images``.
    """
    images = root / "images"
    if not images.is_dir() or any(is_image(path) for path in images.iterdir()):
        return False
    return any(name != "default" for name in coco_names(root))  # CVAT's name for all images


def _is_coco_split(root: Path, name: str) -> bool:
    files = [root / "annotations" / f"{kind}_{name}.json" for kind in _COCO_KINDS]
    return any(file.is_file() for file in files) and (root / "images" / name).is_dir()


def _coco_name(root: Path, split: str) -> str:
    """Returns a split's name in COCO's folders: for ``val``, also ``val2017`` if it is alone."""
    name = REFERENCE_SPLITS.get(split, split)
    names = coco_names(root)
    if name in names or split not in SPLIT_WORDS:
        return name
    alike = [other for other in names if split_kind(other) == split]
    return alike[0] if len(alike) == 1 else name


def _coco_paths(root: Path, split: str) -> tuple[Path, Path]:
    """Finds the annotation file and the image folder of a split in COCO's folders.

    Raises:
        UserError: a folder or the annotation file is missing.
    """
    name = _coco_name(root, split)
    annotation_dir, image_dir = root / "annotations", root / "images" / name
    _require_folder(annotation_dir, f"the annotations of split {split!r}")
    candidates = [annotation_dir / f"{kind}_{name}.json" for kind in _COCO_KINDS]
    annotation_file = next((file for file in candidates if file.is_file()), None)
    if annotation_file is None:
        raise UserError(
            f"there is no annotation file {candidates[0]} for split {split!r} (nor "
            f"{candidates[1].name}); {annotation_dir} holds {_listing(annotation_dir)}"
        )
    _require_folder(image_dir, f"the images of split {split!r}")
    return annotation_file, image_dir


def _names_of(layout: Layout, kind: str) -> list[str]:
    """Lists a folder's splits to train, validate or test with, the most usual name first.

    All images of a folder without splits are to train with.
    """
    found = [(split_word(name) or "", name) for name in layout.splits if split_kind(name) == kind]
    found.sort(key=lambda pair: SPLIT_WORDS[kind].index(pair[0]))
    return [name for _, name in found] + [""] * (kind == "train" and "" in layout.splits)


def _described(layout: Layout, name: str) -> Source:
    """Reads a split, and notes which format and split it was taken for."""
    source = layout.splits[name]()
    note = f"read as {layout.description}" + (f", its split {name!r}" if name else "")
    return source._replace(notes=(note, *layout.notes, *source.notes))


def missing_images(dataset: CocoDetection) -> list[str]:
    """Lists the file names of the annotation file that the image folder does not hold."""
    names = map(dataset.file_name, range(len(dataset)))
    return absent_names(names, dataset.image_dir)


def _require_folder(folder: Path, purpose: str) -> None:
    if folder.is_dir():
        return
    parent = next(parent for parent in folder.absolute().parents if parent.is_dir())
    raise UserError(
        f"there is no folder {folder} for {purpose}; {parent} holds {_listing(parent)} "
        "(system.data_dir and system.dataset_dir say where the data is, in COCO's, YOLO's or "
        "Pascal VOC's format)"
    )


def _listing(folder: Path) -> str:
    return _some(sorted(name for name in os.listdir(folder) if not name.startswith(".")))


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f", … ({len(names)} in all)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "nothing"
