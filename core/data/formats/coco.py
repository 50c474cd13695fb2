"""Folders with COCO files and images anywhere, as Roboflow, CVAT and Label Studio export them."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from ...config.errors import UserError
from ..records import read_records
from .source import Layout, Source, count_of, is_image, split_of_folder, split_word

_SAMPLE = 50  # names of images that are looked for in each folder


def recognise_coco(root: Path, files: Sequence[Path]) -> Layout | None:
    """Recognises a folder of images and COCO files; None if it has none.

    Raises:
        UserError: there are several for one split.
    """
    found = [path for path in files if path.suffix.lower() == ".json" and _is_coco(root / path)]
    # Beside them COCO has captions and key points, of the same images.
    found = [path for path in found if path.name.startswith("instances")] or found
    by_word: dict[str, list[Path]] = {}
    for path in found:
        by_word.setdefault(split_word(path.stem) or split_of_folder(path), []).append(path)
    unnamed = by_word.pop("", []) if len(by_word) > 1 else []
    for word, paths in by_word.items():
        if len(paths) > 1:
            names = ", ".join(path.as_posix() for path in paths)
            split = f"of the split {word!r}" if word else "that name no split"
            raise UserError(
                f"{root} holds {len(paths)} COCO files {split}: {names}; leave one there, or name "
                "them train.json and val.json"
            )
    images = [path for path in files if is_image(path)]
    splits = {word: partial(_read, root, paths[0], images) for word, paths in by_word.items()}
    if not found:
        return None
    names = ", ".join(path.as_posix() for path in found if path not in unnamed)
    notes = tuple(f"{path} names no split, passed over" for path in unnamed)
    return Layout(root, f"images and COCO files ({names})", splits, notes)


def _is_coco(file: Path) -> bool:
    """Tells a COCO file from other JSON without parsing it, so that a broken one is named later."""
    try:
        data = file.read_bytes()
    except OSError:
        return False
    return b'"images"' in data and (b'"annotations"' in data or b'"categories"' in data)


def _read(root: Path, file: Path, images: Sequence[Path]) -> Source:
    """Reads a COCO file, and finds the folder that its images are relative to."""
    records = read_records(root / file)
    given = [image.get("file_name") for image in records["images"]]
    names = [name for name in given if isinstance(name, str)]
    sample = {_plain(name) for name in names[:: max(1, len(names) // _SAMPLE)]}
    present = {_plain(path.as_posix()) for path in images}
    folders = {parent for path in images for parent in path.parents}
    word = split_word(file.stem) or split_of_folder(file)
    best, most = Path(), 0
    # Of several folders with these names, the nearest to the file's split and the shortest.
    for folder in sorted(folders, key=lambda folder: (_other(folder, word), len(folder.parts))):
        prefix = "" if folder == Path() else _plain(folder.as_posix()) + "/"
        count = sum(prefix + name in present for name in sample)
        if count > most:
            best, most = folder, count
    if most:
        return Source(records, root / best, root / file)
    count = _use_names_alone(records, images)
    if not count:
        raise UserError(
            f"none of the {len(names)} images that {root / file} lists is under {root}"
            + (f", such as {names[0]!r}" if names else "")
        )
    note = f"{count_of(count, 'image')} found by the name alone, not in the folder that is given"
    return Source(records, root, root / file, (note,))


def _other(folder: Path, word: str) -> bool:
    """True if a folder, or the last above it that names a split, is of another split."""
    return split_of_folder(folder / "image") != word


def _use_names_alone(records: Mapping[str, Any], images: Sequence[Path]) -> int:
    """Replaces paths of another machine by those of images with the same names; counts them."""
    by_name: dict[str, list[Path]] = {}
    for path in images:
        by_name.setdefault(_plain(path.name), []).append(path)
    count = 0
    for record in records["images"]:
        name = record.get("file_name")
        found = by_name.get(_plain(re.split(r"[/\\]", name)[-1]), []) if name else []
        if len(found) == 1:
            record["file_name"] = found[0].as_posix()
            count += 1
    return count


def _plain(name: str) -> str:
    """Writes a path without ``./`` and in Unicode's composed form, to compare it."""
    return PurePosixPath(unicodedata.normalize("NFC", name)).as_posix()
