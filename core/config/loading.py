"""A JSON config as frozen dataclasses: strict, typed, and without side effects when read.

A config file is ``{"system": …, "db": …, "model": …}``, and may name a base
(:mod:`core.config.bases`). Its ``model_name``, or that of its base, or the part of its name before
the first ``-`` says which model it is for. The ``model`` section belongs to the model: its module
reads it with :func:`parse_section`. The files of the reference implementation load as they are.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .bases import SECTIONS, model_of, resolve
from .errors import UserError
from .files import find_config, read_json, search_places
from .parsing import parse_override, parse_section
from .schema import Db, System, problems


@dataclass(frozen=True)
class Config:
    """A config file that was read and checked.

    Attributes:
        name: file name without ``.json``, such as ``CornerNet_Squeeze-shapes``.
        path: path of the file, with those of its bases, for messages.
        system, db: sections that all models share.
        model: the ``model`` section as read; the model's module checks it.
        model_name: a key of :data:`core.models.MODELS`.
        given: what the file, its bases and the overrides say, by section; without defaults.
    """

    name: str
    path: str
    system: System
    db: Db
    model: Mapping[str, Any]
    model_name: str
    given: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, compare=False, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Converts the config to plain JSON values; :func:`config_from_dict` reads them back."""
        return {
            "model_name": self.model_name,
            "system": dataclasses.asdict(self.system),
            "db": dataclasses.asdict(self.db),
            "model": dict(self.model),
        }


def load_config(
    name: str,
    suffix: str | None = None,
    overrides: Sequence[str] = (),
    config_dir: Path | str | None = None,
) -> Config:
    """Finds the file ``<name>[-<suffix>].json`` and reads it.

    Args:
        name: a config's name, or the path of a ``.json`` file.
        suffix: end of a config's name, as on the reference's command line.
        overrides: ``section.key=value``, the value in JSON, or a string without quotes.
        config_dir: the only folder in which names are looked up; None: the current folder, then
            ``configs`` in it, then the package's.

    Raises:
        UserError: no such file, broken JSON, unknown key, wrong type, impossible combination.
    """
    path = find_config(name, search_places(config_dir), suffix)
    return config_from_dict(read_json(path), path.stem, str(path), overrides, config_dir)


def config_from_dict(
    content: Any,
    name: str,
    where: str,
    overrides: Sequence[str] = (),
    config_dir: Path | str | None = None,
) -> Config:
    """Checks the content of a config.

    Args:
        content: ``{"system": …, "db": …, "model": …}``; each section may be missing. A ``base`` is
            read.
        name: the config's name.
        where: the file, for messages, and to look for a base beside it.
        overrides, config_dir: as for :func:`load_config`.

    Raises:
        UserError: unknown key, wrong type, impossible combination, a base that cannot be read.
    """
    resolved = resolve(content, where, config_dir)
    if resolved.bases:
        where = f"{where} (base {', '.join(map(str, resolved.bases))})"
    sections = resolved.sections
    for section, values in _read_overrides(overrides).items():
        sections[section].update(values)
    config = Config(
        name=name,
        path=where,
        system=parse_section(System, sections["system"], f"{where}: system"),
        db=parse_section(Db, sections["db"], f"{where}: db"),
        model=sections["model"],
        model_name=resolved.model_name or model_of(name),
        given=sections,
    )
    for problem in problems(config.system, config.db):
        raise UserError(f"{where}: {problem}")
    return config


def _read_overrides(overrides: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Reads ``section.key=value``, and checks the keys and types that do not depend on a model."""
    sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for override in overrides:
        section, key, value = parse_override(override, SECTIONS)
        sections[section][key] = value
    parse_section(System, sections["system"], "--set system")
    parse_section(Db, sections["db"], "--set db")
    return sections
