"""A JSON config as frozen dataclasses: strict, typed, and without side effects when read.

A config file is ``{"system": …, "db": …, "model": …}``. The part of its name before the first ``-``
is the model's name. The ``model`` section belongs to the model: its module reads it with
:func:`parse_section`. The files of the reference implementation load as they are.
"""

import dataclasses
import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UserError
from .parsing import nearest, parse_override, parse_section
from .schema import Db, System, problems

_PACKAGE = Path(__file__).resolve().parents[1]
# Installed, the package contains the configs; in a clone they are beside it.
CONFIG_DIR = (_PACKAGE if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent) / "configs"


@dataclass(frozen=True)
class Config:
    """A config file that was read and checked.

    Attributes:
        name: file name without ``.json``, such as ``CornerNet_Squeeze-shapes``.
        path: path of the file, for messages.
        system, db: sections that all models share.
        model: the ``model`` section as read; the model's module checks it.
    """

    name: str
    path: str
    system: System
    db: Db
    model: Mapping[str, Any]

    @property
    def model_name(self) -> str:
        """Part of the name before the first ``-``: a key of :data:`core.models.MODELS`."""
        return self.name.split("-")[0]

    def as_dict(self) -> dict[str, Any]:
        """Converts the sections to plain JSON values; :func:`config_from_dict` reads them back."""
        return {
            "system": dataclasses.asdict(self.system),
            "db": dataclasses.asdict(self.db),
            "model": dict(self.model),
        }


def load_config(
    name: str,
    suffix: str | None = None,
    overrides: Sequence[str] = (),
    config_dir: Path | str = CONFIG_DIR,
) -> Config:
    """Reads ``<config_dir>/<name>[-<suffix>].json``.

    Args:
        name: a config's name, or the path of a ``.json`` file.
        suffix: end of a config's name, as on the reference's command line.
        overrides: ``section.key=value``, the value in JSON, or a string without quotes.
        config_dir: folder in which names are looked up.

    Raises:
        UserError: no such file, broken JSON, unknown key, wrong type, impossible combination.
    """
    path = Path(name) if name.endswith(".json") else Path(config_dir) / f"{name}.json"
    if suffix:
        path = path.with_name(f"{path.stem}-{suffix}.json")
    if not path.is_file():
        names = sorted(file.stem for file in path.parent.glob("*.json"))
        near = difflib.get_close_matches(path.stem, names, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(
            f"there is no config {path.stem!r} in {path.parent}; {hint}there are: "
            f"{', '.join(names) or 'none'}"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: {error.reason}") from None
    return config_from_dict(content, path.stem, str(path), overrides)


def config_from_dict(content: Any, name: str, where: str, overrides: Sequence[str] = ()) -> Config:
    """Checks the content of a config.

    Args:
        content: ``{"system": …, "db": …, "model": …}``; each section may be missing.
        name: the config's name.
        where: the file, for messages.
        overrides: ``section.key=value``, as for :func:`load_config`.

    Raises:
        UserError: unknown key, wrong type, impossible combination.
    """
    sections = ("system", "db", "model")
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise UserError(f'{where}: must hold {{"system": {{…}}, "db": {{…}}, "model": {{…}}}}')
    for key in content:
        if key not in sections:
            raise UserError(f"{where}: unknown section {key!r}{nearest(key, sections)}")
    content = {section: dict(content.get(section, {})) for section in sections}
    for override in overrides:
        section, key, value = parse_override(override, sections)
        content[section][key] = value
    config = Config(
        name=name,
        path=where,
        system=parse_section(System, content["system"], f"{where}: system"),
        db=parse_section(Db, content["db"], f"{where}: db"),
        model=content["model"],
    )
    for problem in problems(config.system, config.db):
        raise UserError(f"{where}: {problem}")
    return config
