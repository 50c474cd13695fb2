"""Folders of Pascal VOC: an XML file for each image, beside it or in a folder of its own."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ...config.errors import UserError
from ..image_sizes import read_size
from .source import (
    SPLIT_WORDS,
    Box,
    LabelledImage,
    Layout,
    Source,
    by_split,
    common_folder,
    count_of,
    image_stem,
    is_image,
    make_records,
    passed_over,
    read_list,
    split_of_folder,
)
from .voc_xml import VocImage, read_xml

_ROOT = re.compile(rb"<annotation[\s>]")


class _Files(NamedTuple):
    """Files of a folder, relative to it.

    Attributes:
        root: the folder.
        images: the images.
        xml: the XML files by the split that their folders name, empty for none, and by their name
            without its ending.
    """

    root: Path
    images: list[Path]
    xml: Mapping[tuple[str, str], list[Path]]


def recognise_xml(root: Path, files: Sequence[Path]) -> Layout | None:
    """Recognises a folder of images and XML files; None if it is none.

    The splits are those of ``ImageSets/Main``, or of the folders.
    """
    xml_files = [path for path in files if path.suffix.lower() == ".xml"]
    if not any(_is_annotation(root / path) for path in xml_files):
        return None
    images = [path for path in files if is_image(path) and "SegmentationClass" not in path.parts]
    images = [path for path in images if "SegmentationObject" not in path.parts]
    xml: dict[tuple[str, str], list[Path]] = {}
    for path in xml_files:
        xml.setdefault((split_of_folder(path), path.stem), []).append(path)
    found = _Files(root, images, xml)
    lists: dict[str, list[Path]] = {}
    for path in files:
        is_list = path.suffix == ".txt" and path.parts[-3:-1] == ("ImageSets", "Main")
        if is_list and any(path.stem in words for words in SPLIT_WORDS.values()):
            lists.setdefault(path.stem, []).append(path)
    if lists:
        splits = {word: partial(_read_listed, found, paths) for word, paths in lists.items()}
        return Layout(root, "a Pascal VOC folder (ImageSets/Main)", splits)
    groups, notes = by_split(images)
    grouped = {word: partial(_read, found, paths, None) for word, paths in groups.items()}
    return Layout(root, "a Pascal VOC folder (without ImageSets/Main)", grouped, notes)


def _read_listed(files: _Files, lists: Sequence[Path]) -> Source:
    """Reads the images that files of ``ImageSets/Main`` list."""
    by_stem: dict[str, list[Path]] = {}
    for path in files.images:
        by_stem.setdefault(image_stem(path.name), []).append(path)
    images = []
    for path in lists:
        for number, line in read_list(files.root / path):
            name = line.split()[0]
            found = by_stem.get(image_stem(name), [])
            if len(found) != 1:
                what = "no image" if not found else f"{len(found)} images"
                raise UserError(f"{files.root / path}:{number}: there is {what} named {name}")
            images += found
    return _read(files, list(dict.fromkeys(images)), files.root / lists[0])


def _read(files: _Files, paths: Sequence[Path], label_path: Path | None) -> Source:
    """Reads the XML files of some images."""
    if not paths:
        raise UserError(f"{label_path or files.root}: there are no images")
    root = files.root
    chosen = {path: _xml_of(files, path) for path in files.images}
    contents = {xml: read_xml(root / xml) for xml in chosen.values() if xml is not None}
    names = sorted({item.name for content in contents.values() for item in content.objects})
    numbers = {name: number for number, name in enumerate(names, 1)}
    images, unreadable = [], []
    for path in paths:
        content = contents.get(chosen[path] or path, VocImage(None, [], 0))
        size = content.size or read_size(root / path)
        if size is None:
            unreadable.append(root / path)
            continue
        boxes = [
            Box(numbers[item.name], item.xywh, int(item.is_difficult)) for item in content.objects
        ]
        images.append(LabelledImage(root / path, size, boxes))
    used = [xml for path in paths if (xml := chosen[path]) is not None]
    if not images:
        raise UserError(f"{root}: none of the images can be read, such as {unreadable[0]}")
    if label_path is None:
        label_path = common_folder(root / xml for xml in used) if used else root
    image_dir = common_folder(image.path for image in images)
    records = make_records(images, {number: name for name, number in numbers.items()}, image_dir)
    alone = {xml for group in files.xml.values() for xml in group} - set(chosen.values())
    turned_round = sum(contents[xml].turned_round for xml in used)
    notes = _notes(len(paths) - len(used), sorted(root / xml for xml in alone), unreadable)
    if turned_round:
        notes.append(f"{count_of(turned_round, 'box', 'boxes')} with corners in the wrong order")
    return Source(records, image_dir, label_path, tuple(notes))


def _notes(unlabelled: int, alone: Sequence[Path], unreadable: Sequence[Path]) -> list[str]:
    notes = []
    if unlabelled:
        notes.append(f"{count_of(unlabelled, 'image')} without an XML file, so without objects")
    notes += passed_over(alone, "XML file", "without an image, passed over")
    return notes + passed_over(unreadable, "image", "cannot be read, left out")


def _xml_of(files: _Files, image: Path) -> Path | None:
    """Finds the XML file of an image: beside it, or of the same name in a folder of its split."""
    stem = image_stem(image.name)
    for split in (split_of_folder(image), ""):
        found = files.xml.get((split, stem), [])
        beside = [path for path in found if path.parent == image.parent]
        if len(beside or found) > 1:
            names = ", ".join(str(path) for path in found)
            raise UserError(f"{files.root}: {image} may belong to each of {names}; rename them")
        if found:
            return (beside or found)[0]
    return None


def _is_annotation(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return _ROOT.search(opened.read(4096)) is not None
    except OSError:
        return False
