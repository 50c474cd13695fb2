"""Files of configs: where they are looked for, and their JSON, read strictly and written."""

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]
# Installed, the package contains the configs; in a clone they are beside it.
CONFIG_DIR = (_PACKAGE if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent) / "configs"

_MOST_NAMES = 20  # that a message lists
_HINTS = {  # by what is found where the JSON breaks
    r"//|/\*|#": "JSON has no comments",
    r",?\s*[}\]]": "is there a comma too many, or a value missing?",
    r"'": 'strings need double quotes: "…"',
    r"True|False|None|NaN|inf": "write true, false and null",
}


def search_places(config_dir: Path | str | None = None) -> tuple[Path, ...]:
    """Lists the folders in which the name of a config is looked up, in this order.

    Args:
        config_dir: the only folder; None: the current one, ``configs`` in it, and the package's.
    """
    if config_dir is not None:
        return (Path(config_dir),)
    return (Path(), Path("configs"), CONFIG_DIR)


def find_config(name: str, places: Sequence[Path], suffix: str | None = None) -> Path:
    """Finds the file of a config.

    Args:
        name: a config's name, or the path of a ``.json`` file.
        places: folders in which a name is looked up.
        suffix: end of a config's name, as on the reference's command line.

    Raises:
        UserError: there is none; the message lists where it was looked for, and what there is.
    """
    ending = f"-{suffix}.json" if suffix else ".json"
    file = name.removesuffix(".json") + ending
    folders = [Path()] if name.endswith(".json") else list(places)
    for folder in folders:
        if os.path.isfile(folder / file):
            return folder / file
    for folder in folders:
        if os.path.isdir(folder / file):
            raise UserError(f"{folder / file} is a folder; a config is a file of JSON")
    if name.endswith(".json"):
        folders = [Path(file).parent]
    raise UserError(_missing(Path(file).stem, _distinct(folders)))


def read_json(path: Path) -> Any:
    """Reads a file of JSON, by the letter of its standard: no key twice, no NaN, no comments.

    Raises:
        UserError: the file cannot be read, or is not JSON; the message says where and what.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for key, value in pairs:
            if key in content:
                raise UserError(f"{path}: the key {key!r} is there twice; keep one of them")
            content[key] = value
        return content

    def refuse(word: str) -> None:
        raise UserError(f"{path}: {word} is no number in JSON; give a finite one, or null for none")

    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if not text.strip():
        raise UserError(f'{path}: the file is empty; a config is {{"system": {{…}}, "db": {{…}}}}')
    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except UserError:
        raise
    except json.JSONDecodeError as error:
        hint = _hint(text, error.pos)
        place = f"{path}:{error.lineno}:{error.colno}"
        raise UserError(f"{place}: not JSON: {error.msg}{hint and f'; {hint}'}") from None
    except RecursionError:
        raise UserError(f"{path}: its lists or sections are nested too deep") from None
    except ValueError:  # Python reads no number of more digits
        raise UserError(f"{path}: a number has thousands of digits") from None


def as_text(content: Mapping[str, Any]) -> str:
    """Writes a config as JSON, a setting a line.

    Args:
        content: sections by name, and other entries.
    """
    entries = []
    for name, value in content.items():
        text = json.dumps(value)
        if isinstance(value, Mapping) and value:
            lines = [f"        {json.dumps(key)}: {json.dumps(value[key])}" for key in value]
            text = "{\n" + ",\n".join(lines) + "\n    }"
        entries.append(f"    {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(entries) + "\n}\n"


def _missing(stem: str, folders: Sequence[Path]) -> str:
    """Message about a config that is in none of the folders."""
    names = {folder: _names_in(folder) for folder in folders}
    near = difflib.get_close_matches(stem, sorted(set().union(*names.values())), 3)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    # The current folder is full of other files.
    others = [name for folder in folders for name in names[folder] if folder != Path()]
    listed = list(dict.fromkeys(others or names[folders[0]]))
    shown = ", ".join(listed[:_MOST_NAMES]) + ", …" * (len(listed) > _MOST_NAMES)
    where = ", ".join("the current folder" if x == Path() else str(x) for x in folders)
    return f"there is no config {stem!r:.60} in {where}; {hint}there are: {shown or 'none'}"


def _names_in(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.json")) if folder.is_dir() else []


def _distinct(folders: Sequence[Path]) -> list[Path]:
    """Leaves out folders that are there before, by another path."""
    return list({folder.resolve(): folder for folder in reversed(folders)}.values())[::-1]


def _hint(text: str, position: int) -> str:
    """What is likely wrong where JSON breaks; empty if that is unknown."""
    rest = text[position:].lstrip()
    return next((hint for pattern, hint in _HINTS.items() if re.match(pattern, rest)), "")
