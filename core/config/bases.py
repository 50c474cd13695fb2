"""Configs with a base: ``{"base": "CornerNet_Squeeze", "system": {…}}``.

A base may have a base itself. Settings replace those of the base key by key, lists as a whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UserError
from .files import CONFIG_DIR, find_config, read_json, search_places
from .suggestions import suggest_section

SECTIONS = ("system", "db", "model")
_NAMES = ("base", "model_name")  # entries beside the sections, which are strings


@dataclass(frozen=True)
class Resolved:
    """The content of a config with all of its bases.

    Attributes:
        sections: settings by section; each of :data:`SECTIONS` is there.
        model_name: the ``model_name`` of the file or of its nearest base that has one; otherwise
            the part before the first ``-`` of the name of the last base; None: neither.
        bases: files of the bases, the nearest first.
    """

    sections: dict[str, dict[str, Any]]
    model_name: str | None
    bases: tuple[Path, ...]


def resolve(content: Any, where: str, config_dir: Path | str | None = None) -> Resolved:
    """Resolves the bases of a config.

    A base is the path of a ``.json`` file, relative to the file that names it, or a name, which is
    looked up beside that file, then like the config's own name, then among the package's configs.

    Args:
        content: what the file holds; unknown entries are refused, those of sections are not.
        where: the file.
        config_dir: the only folder in which names are looked up, before the package's.

    Raises:
        UserError: the content has no form of a config, a base is missing, or the bases are a cycle.
    """
    files, contents = [Path(where)], [_checked(content, where)]
    places = (*search_places(config_dir), CONFIG_DIR)
    while (base := contents[-1].get("base")) is not None:
        folder = files[-1].parent
        try:
            name = str(folder / base) if base.endswith(".json") else base
            file = find_config(name, (folder, *places))
        except UserError as error:
            raise UserError(f"{files[-1]}: base: {error}") from None
        chain = [*files, file]
        if file.resolve() in [other.resolve() for other in files]:
            cycle = " -> ".join(map(str, chain))
            raise UserError(f"{where}: its bases are a cycle: {cycle}; take one out")
        files = chain
        contents.append(_checked(read_json(file), str(file)))
    sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for each in reversed(contents):
        for section in SECTIONS:
            sections[section].update(each.get(section, {}))
    named = [each["model_name"] for each in contents if "model_name" in each]
    if len(files) > 1:
        named.append(model_of(files[-1].stem))
    return Resolved(sections, named[0] if named else None, tuple(files[1:]))


def model_of(name: str) -> str:
    """Part of a config's name that is the model's name: that before the first ``-``."""
    return name.split("-")[0]


def _checked(content: Any, where: str) -> Mapping[str, Any]:
    """Returns the content of a file if it has the form of a config."""
    if not isinstance(content, dict):
        raise UserError(f'{where}: must hold {{"system": {{…}}, "db": {{…}}, "model": {{…}}}}')
    for key, value in content.items():
        if key in _NAMES:
            if not isinstance(value, str) or not value:
                raise UserError(f"{where}: {key} must be a name in quotes")
        elif key not in SECTIONS:
            raise UserError(f"{where}: unknown section {key!r:.60}{suggest_section(key, SECTIONS)}")
        elif not isinstance(value, dict):
            raise UserError(f"{where}: {key} must be settings in braces, as {{…}}")
    return content
