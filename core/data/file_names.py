"""Names of files: those of an annotation file that a folder spells otherwise, and those of outputs.

People move datasets between systems, which change the Unicode form of names, the case, separators
and percent signs.
"""

import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

_LONGEST = 200  # bytes of a name; file systems take 255, or 143 if they encrypt
_HASH = 10  # hexadecimal digits
# What some file system does not take in a name: control characters, and what Windows reserves.
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*\ud800-\udfff]')
_SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", ".ds_store"})


def is_system_file(name: str) -> bool:
    """True for files that macOS and Windows leave in folders of images, such as ``._image.jpg``."""
    return name.startswith("._") or name.lower() in _SYSTEM_FILES


def output_name(stem: str, suffix: str = "") -> str:
    """Makes a file name that every file system takes, from any text.

    Args:
        stem: name without suffix; what a file system refuses is replaced by ``_``, and the end of
            a long one by a hash of the whole.
        suffix: kept as it is, such as ``.jpg``.

    Returns:
        At most 200 bytes.
    """
    name = _FORBIDDEN.sub("_", stem).strip(" ") or "_"
    room = _LONGEST - len(suffix.encode())
    if len(name.encode()) > room:
        digest = hashlib.sha256(stem.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH]
        kept = name.encode()[: room - _HASH - 1].decode(errors="ignore")
        name = f"{kept}_{digest}"
    return name + suffix


def match_file_names(names: Sequence[str], folder: Path) -> tuple[list[str], str]:
    """Finds the names that a folder has for those of an annotation file.

    A name that the folder does not hold is compared without regard to its Unicode form (NFC, NFD),
    its case, percent encoding (``%20``) and separators (``\\``). It is replaced if one file fits
    that has no other name; otherwise it stays.

    Args:
        names: paths relative to the folder, as the annotation file has them.
        folder: the folder.

    Returns:
        The names, and one line about those that were replaced; empty if there are none.
    """
    given = set(names)
    absent = absent_names(given, folder)
    if not absent:
        return list(names), ""
    wanted, there = defaultdict(list), defaultdict(list)
    for name in absent:
        wanted[_key(name)].append(name)
    for name in _files(folder):
        if name not in given:
            there[_key(name)].append(name)
    replaced = {
        spelt[0]: there[key][0]
        for key, spelt in wanted.items()
        if len(spelt) == 1 and len(there[key]) == 1
    }
    note = ""
    if replaced:
        example = "{!r} is {!r}".format(*min(replaced.items()))
        note = (
            f"{len(replaced)} file names are spelt otherwise than in {folder} (Unicode form, "
            f"case, separators or percent signs): {example}"
        )
    return [replaced.get(name, name) for name in names], note


def absent_names(names: Iterable[str], folder: Path) -> list[str]:
    """Lists the names that a folder does not hold exactly as they are written.

    Args:
        names: paths relative to the folder.
        folder: the folder.
    """
    by_parent: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_parent[os.path.dirname(name)].append(name)
    absent: list[str] = []
    for parent, inside in by_parent.items():
        try:
            present = set(os.listdir(folder / parent))
        except (OSError, ValueError):  # ValueError: no file can have this name
            present = set()
        absent += [name for name in inside if os.path.basename(name) not in present]
    return absent


def _files(folder: Path) -> Iterable[str]:
    for parent, _, names in os.walk(folder):
        inside = Path(parent).relative_to(folder)
        yield from ((inside / name).as_posix() for name in names)


def _key(name: str) -> str:
    """Reduces a name to what systems do not change."""
    plain = str(PurePosixPath(unquote(name.replace("\\", "/"), errors="surrogateescape")))
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", plain).casefold())
