"""What every reader of a format gives: the splits of a folder, and the raw records of a split."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ...config.errors import UserError

# Names that people give to their splits, the usual one first.
SPLIT_WORDS = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "valid", "validation", "minival", "dev"),
    "test": ("test", "testing", "testdev"),
}
_KINDS = {word: kind for kind, words in SPLIT_WORDS.items() for word in words}
# Of the formats that the image reader decodes.
_IMAGE_ENDINGS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".jp2")
)


class Source(NamedTuple):
    """The records of a split as its files give them, before they are checked and packed.

    Attributes:
        records: ``images``, ``annotations`` (None: the split has none) and ``categories``, lists of
            dicts with the fields of a COCO file.
        image_dir: the folder that the ``file_name`` entries are relative to.
        label_path: file or folder of the annotations, for messages.
        notes: what was left out, repaired or chosen while reading, with counts; a line each.
    """

    records: dict[str, Any]
    image_dir: Path
    label_path: Path
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """A folder whose format was recognised.

    Attributes:
        root: the folder.
        description: the format, for messages.
        splits: functions that read a split, by its name as the folder has it, one of
            :data:`SPLIT_WORDS`; the name is empty in a folder without splits.
        notes: what was passed over while looking for them; a line each.
    """

    root: Path
    description: str
    splits: Mapping[str, Callable[[], Source]]
    notes: tuple[str, ...] = ()


class Box(NamedTuple):
    """A box of an image.

    Attributes:
        category: id of its category.
        xywh: left and top edge, width and height, in pixels.
        crowd: 1 for a box that a detector need not find, else 0.
    """

    category: int
    xywh: tuple[float, float, float, float]
    crowd: int = 0


class LabelledImage(NamedTuple):
    """An image with its boxes.

    Attributes:
        path: the file.
        size: height and width in pixels.
        boxes: boxes in the image.
    """

    path: Path
    size: tuple[int, int]
    boxes: list[Box]


def split_word(text: str) -> str | None:
    """Finds the first of :data:`SPLIT_WORDS` in a name: ``train`` in ``instances_train2017``."""
    return next((word for word in re.findall(r"[a-z]+", text.lower()) if word in _KINDS), None)


def split_kind(text: str) -> str | None:
    """Returns ``train``, ``val`` or ``test``, if a name has a word for it; else None."""
    return _KINDS.get(split_word(text) or "")


def split_of_folder(path: Path) -> str:
    """Finds the split that the folders of a relative path name; empty if none does."""
    words = (split_word(part) for part in reversed(path.parts[:-1]))
    return next((word for word in words if word is not None), "")


def by_split(images: Iterable[Path]) -> tuple[dict[str, list[Path]], tuple[str, ...]]:
    """Groups images by the split that their folders name.

    Args:
        images: relative paths.

    Returns:
        The images of each split, and a note if there are some in no folder of a split; these are
        left out if others are in one, and else all of them are of the split with the empty name.
    """
    groups: dict[str, list[Path]] = {}
    for path in images:
        groups.setdefault(split_of_folder(path), []).append(path)
    outside = groups.pop("", []) if len(groups) > 1 else []
    return groups, tuple(passed_over(outside, "image", "in no folder of a split, passed over"))


def list_files(root: Path) -> list[Path]:
    """Lists all files under a folder, relative to it, sorted; hidden ones are passed over."""
    found, visited = [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # a link to a folder above it
            folders.clear()
            continue
        visited.add(real)
        folders[:] = [name for name in folders if not _is_hidden(name)]
        relative = Path(folder).relative_to(root)
        found += [relative / name for name in names if not _is_hidden(name)]
    return sorted(found)


def is_image(path: Path) -> bool:
    """Tells an image from other files by the ending of its name."""
    return path.suffix.lower() in _IMAGE_ENDINGS


def image_stem(name: str) -> str:
    """Strips the ending of an image's name, and nothing else: ``a.b`` stays as it is."""
    path = Path(name)
    return path.stem if is_image(path) else path.name


def common_folder(paths: Iterable[Path]) -> Path:
    """Returns the deepest folder that all files are under."""
    return Path(os.path.commonpath([path.parent for path in paths]))


def make_records(
    images: list[LabelledImage], names: Mapping[int, str], image_dir: Path
) -> dict[str, Any]:
    """Makes the records of a COCO file.

    Args:
        images: images and their boxes.
        names: names of the categories, by id.
        image_dir: folder that all images are under.
    """
    image_rows: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for number, (path, (height, width), boxes) in enumerate(images, 1):
        file_name = path.relative_to(image_dir).as_posix()
        image_rows.append({"id": number, "file_name": file_name, "height": height, "width": width})
        for box in boxes:
            row = {"id": len(rows) + 1, "image_id": number, "category_id": box.category}
            area = box.xywh[2] * box.xywh[3]
            rows.append({**row, "bbox": list(box.xywh), "area": area, "iscrowd": box.crowd})
    categories = [{"id": number, "name": name} for number, name in sorted(names.items())]
    return {"images": image_rows, "annotations": rows, "categories": categories}


def read_text(file: Path) -> str:
    """Reads a text in UTF-8, with or without a mark at its start.

    Raises:
        UserError: it cannot be read, or is no such text.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text: {error.reason}") from None


def read_list(file: Path) -> Iterator[tuple[int, str]]:
    """Reads a text file that lists images: number and content of each line that is not empty.

    Raises:
        UserError: it cannot be read.
    """
    try:
        lines = file.read_bytes().decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{file}: not a list of images") from None
    return ((number, line.strip()) for number, line in enumerate(lines, 1) if line.strip())


def passed_over(paths: Sequence[Path], noun: str, why: str) -> list[str]:
    """Writes a note about files, with one of them as an example; an empty list if there are none.

    Args:
        paths: the files.
        noun: what they are, one of them.
        why: what is wrong with them, and what became of them.
    """
    return [f"{count_of(len(paths), noun)} {why}, such as {paths[0]}"] if paths else []


def count_of(number: int, noun: str, plural: str = "") -> str:
    """Writes a number with its noun: ``1 image``, ``1,200 images``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
