"""Folders of YOLO: a text file of boxes for each image, and a ``data.yaml`` with names and splits.

Known are Ultralytics' folders (``images/train`` and ``labels/train``), Roboflow's
(``train/images`` and ``train/labels``), labels beside their images, and all of these without a
``data.yaml``.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...config.errors import UserError
from ..image_sizes import read_size
from .source import (
    Box,
    LabelledImage,
    Layout,
    Source,
    by_split,
    common_folder,
    count_of,
    is_image,
    list_files,
    make_records,
    passed_over,
    read_list,
)
from .yaml_subset import Value, read_yaml
from .yolo_labels import is_label_file, label_file, read_labels

_KEYS = ("path", "train", "val", "valid", "validation", "test", "names", "nc", "kpt_shape")
_SPLITS = ("train", "val", "valid", "validation", "test")
_MOST_NUMBERS = 9999  # a larger one without a name is rather a mistake
# Files of names, a class a line, beside or above the labels.
_NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels")


@dataclass(frozen=True)
class _Dataset:
    """What the splits of a folder have in common.

    Attributes:
        names: names of the classes by number, and the file that has them; None: they have none.
        is_pose: the lines of the labels have key points.
        images: a function that lists all images of the folder, for their class numbers.
    """

    names: tuple[dict[int, str], Path] | None
    is_pose: bool
    images: Callable[[], Sequence[Path]]


def yaml_of(root: Path, files: Sequence[Path]) -> Path | None:
    """Finds the ``data.yaml`` of a folder.

    At the top of the folder it may have any name, and is known by its entries ``names`` or ``nc``;
    below, it must be a ``data.yaml`` or ``dataset.yaml``.

    Raises:
        UserError: there are several.
    """
    candidates = [root / path for path in files if path.suffix.lower() in (".yaml", ".yml")]
    usual = [path for path in candidates if path.stem.lower() in ("data", "dataset")]
    top = [path for path in candidates if path.parent == root]
    found = [path for path in usual if path in top]
    found = found or [path for path in top if _describes_data(path)] or usual
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(f"{root}: {names} each describe a YOLO dataset; leave one of them there")
    return found[0] if found else None


def recognise_yaml(root: Path, files: Sequence[Path], file: Path) -> Layout:
    """Reads the splits and names of a ``data.yaml``.

    Raises:
        UserError: the file cannot be read, an entry has the wrong type, ``nc`` and ``names``
            disagree, or a class has no name.
    """
    content = read_yaml(file, _KEYS)
    names = _names_of_yaml(file, content)
    if names is None:
        names = _names_of_files(root, files)
    given = {key: _texts(file, key, content[key]) for key in _SPLITS if content.get(key)}
    base = content.get("path")
    if not (base is None or isinstance(base, str)):
        raise UserError(f"{file}: path must be one folder")
    searches = {
        key: partial(_listed_images, file, base, key, entries) for key, entries in given.items()
    }
    # Exports name a test split whether they have one or not.
    if "test" in searches and not all(_find(file, base, entry) for entry in given["test"]):
        del searches["test"]
    notes: tuple[str, ...] = ()
    if not searches:
        groups, notes = by_split(path for path in files if is_image(path))
        searches = {word: partial(_under, root, paths) for word, paths in groups.items()}

    def all_images() -> list[Path]:
        return [path for search in searches.values() for path in search()]

    dataset = _Dataset(names, content.get("kpt_shape") is not None, all_images)
    splits = {word: partial(_read, dataset, search) for word, search in searches.items()}
    return Layout(root, f"a YOLO folder ({file.name})", splits, notes)


def recognise_labels(root: Path, files: Sequence[Path]) -> Layout | None:
    """Recognises a folder of images and labels without a ``data.yaml``; None if it is none.

    Raises:
        UserError: files of names disagree.
    """
    groups, notes = by_split(path for path in files if is_image(path))
    texts = {root / path for path in files if path.suffix == ".txt"}
    labels = (label_file(root / path) for paths in groups.values() for path in paths)
    if not any(file in texts and is_label_file(file) for file in labels):
        return None
    searches = {word: partial(_under, root, paths) for word, paths in groups.items()}
    images = [root / path for paths in groups.values() for path in paths]
    dataset = _Dataset(_names_of_files(root, files), False, lambda: images)
    splits = {word: partial(_read, dataset, search) for word, search in searches.items()}
    return Layout(root, "a YOLO folder (without a data.yaml)", splits, notes)


def _read(dataset: _Dataset, search: Callable[[], Sequence[Path]]) -> Source:
    """Reads the labels of one split."""
    files = list(search())
    image_dir = common_folder(files)
    labels = [label_file(path) for path in files]
    names, origin = dataset.names or _numbers(dataset)
    images, unreadable, polygons, unlabelled = [], [], 0, 0
    for path, label_path in zip(files, labels, strict=True):
        size = read_size(path)
        if size is None:
            unreadable.append(path)
            continue
        boxes = []
        if label_path.is_file():
            for label in read_labels(label_path, dataset.is_pose):
                if label.category not in names:
                    raise UserError(
                        f"{label_path}:{label.line}: class {label.category}, and {origin} names "
                        f"the classes {_range(names)}"
                    )
                boxes.append(Box(label.category, _in_pixels(label.box, size)))
                polygons += label.is_polygon
        else:
            unlabelled += 1
        images.append(LabelledImage(path, size, boxes))
    if not images:
        raise UserError(f"{image_dir}: none of its images can be read, such as {unreadable[0]}")
    records = make_records(images, names, image_dir)
    if unlabelled == len(images):
        records["annotations"] = None
    notes = _notes(labels, unreadable, polygons, unlabelled)
    if dataset.names is None:
        called = f"they are called {', '.join(names.values())}" if names else "there are none"
        notes.append(f"no names of classes were found; {called}")
    return Source(records, image_dir, common_folder(labels), tuple(notes))


def _notes(
    labels: Sequence[Path], unreadable: Sequence[Path], polygons: int, unlabelled: int
) -> list[str]:
    notes = []
    if unlabelled:
        notes.append(f"{count_of(unlabelled, 'image')} without a label file, so without objects")
    wanted = set(labels)
    folders = sorted({path.parent for path in labels})
    present = [path for folder in folders if folder.is_dir() for path in folder.glob("*.txt")]
    alone = [path for path in sorted(present) if path not in wanted and is_label_file(path)]
    notes += passed_over(alone, "label file", "without an image, passed over")
    notes += passed_over(unreadable, "image", "cannot be read, left out")
    if polygons:
        notes.append(f"{count_of(polygons, 'outline')} read as the box around it")
    return notes


def _in_pixels(
    box: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Converts centre and sides in fractions to left, top, width and height in pixels."""
    height, width = size
    x, y, w, h = box
    return (x - w / 2) * width, (y - h / 2) * height, w * width, h * height


def _listed_images(file: Path, base: str | None, key: str, entries: Sequence[str]) -> list[Path]:
    """Lists the images of an entry of a ``data.yaml``: folders, and text files that list images."""
    images: list[Path] = []
    for entry in entries:
        found = _find(file, base, entry)
        if found is None:
            under = f" (path: {base})" if base else ""
            raise UserError(
                f"{file}: {key}: {entry}{under}: there is no such folder, also not from "
                f"{file.parent}; correct the entry"
            )
        if found.is_dir():
            images += [found / path for path in list_files(found) if is_image(path)]
        else:
            images += _images_of_list(found)
    if not images:
        raise UserError(f"{file}: {key}: {', '.join(entries)}: there are no images in it")
    return list(dict.fromkeys(images))


def _find(file: Path, base: str | None, entry: str) -> Path | None:
    """Finds what an entry names; files are moved, so that the end of a path may have to do.

    Ultralytics takes it from ``path``, or from the folder of the file, and if it is not there,
    without the ``../`` that it begins with. After that comes the end of the path in the folder of
    the file, for paths of another machine.
    """
    here = file.parent
    start = here if base is None else here / base
    parts = [part for part in Path(entry.replace("\\", "/")).parts if part not in ("..", ".")]
    # A last part alone, as images, is no proof.
    ends = [here / Path(*parts[index:]) for index in range(max(1, len(parts) - 1))]
    candidates = (start / entry, start / entry.removeprefix("../"), *ends)
    found = next((path for path in candidates if os.path.exists(path)), None)
    return None if found is None else Path(os.path.abspath(found))


def _images_of_list(file: Path) -> list[Path]:
    """Reads a text file that lists images, a path a line, from its own folder on."""
    images = []
    for number, line in read_list(file):
        path = file.parent / line
        if not path.is_file():
            raise UserError(f"{file}:{number}: there is no image {path}")
        images.append(path)
    return images


def _under(root: Path, paths: Sequence[Path]) -> list[Path]:
    return [root / path for path in paths]


def _describes_data(file: Path) -> bool:
    try:
        lines = file.read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    return any(line.startswith(("names:", "nc:")) for line in lines)


def _texts(file: Path, key: str, value: Value) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list):
        raise UserError(f"{file}: {key} must be a folder or a list of folders")
    return [text for text in texts if text is not None]


def _names_of_yaml(file: Path, content: dict[str, Value]) -> tuple[dict[int, str], Path] | None:
    """Returns the names by class number and the file; None if it has no names."""
    given, count = content.get("names"), content.get("nc")
    if not given:
        return None
    if isinstance(given, str):
        raise UserError(f"{file}: names must be a list, or a map from class numbers to names")
    pairs = given.items() if isinstance(given, dict) else enumerate(given)
    names: dict[int, str] = {}
    for key, name in pairs:
        if not str(key).isdecimal():
            raise UserError(f"{file}: names: {key!r} is not a class number")
        if name is None:
            raise UserError(f"{file}: names: class {key} has no name; put null into quotes")
        names[int(key)] = name
    if count is not None and count != str(len(names)):
        raise UserError(f"{file}: nc is {count}, and there are {len(names)} names; correct one")
    return names, file


def _names_of_files(root: Path, files: Sequence[Path]) -> tuple[dict[int, str], Path] | None:
    """Returns the names of ``classes.txt`` by class number, and the file; None if there is none."""
    found: tuple[dict[int, str], Path] | None = None
    for path in files:
        if path.name not in _NAME_FILES:
            continue
        try:
            text = (root / path).read_bytes().decode("utf-8-sig", "replace")
        except OSError as error:
            raise UserError(f"{root / path}: cannot be read: {error.strerror}") from None
        names = {number: line.strip() for number, line in enumerate(text.strip().splitlines())}
        if found is not None and names != found[0]:
            raise UserError(f"{root / path} and {found[1]} have other classes; leave one of them")
        found = names, root / path
    return found


def _numbers(dataset: _Dataset) -> tuple[dict[int, str], Path]:
    """Names classes by their numbers, 0 to the largest in any label of any split."""
    largest, file = -1, Path()
    for path in sorted({label_file(image) for image in dataset.images()}):
        if path.is_file():
            for label in read_labels(path, dataset.is_pose):
                largest, file = max((largest, file), (label.category, path))
    if largest > _MOST_NUMBERS:
        raise UserError(
            f"{file}: class {largest}, and there are no names of classes; write them into a "
            "classes.txt beside the images, a name a line"
        )
    return {number: f"class {number}" for number in range(largest + 1)}, file


def _range(names: dict[int, str]) -> str:
    first, last = min(names, default=0), max(names, default=0)
    return f"{first} to {last}" if last - first + 1 == len(names) else ", ".join(map(str, names))
