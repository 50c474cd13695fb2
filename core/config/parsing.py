"""Sections of a config: JSON values checked against a dataclass, key by key and type by type."""

import json
import logging
import math
import os
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from .errors import UserError
from .suggestions import suggest, suggest_section

logger = logging.getLogger(__name__)

T = TypeVar("T")

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
_TOO_LARGE = 2**63
_WORDS = {"true": "true", "yes": "true", "false": "false", "no": "false", "none": "null"}
_SHOWN = 60  # characters of a value, in messages

# Keys of the reference's files that neither the reference nor this package reads.
DEAD_KEYS = frozenset(
    {"rand_full_crop", "height_mult", "width_mult", "max_scale", "view_sizes", "max_per_set"}
    | {"score_threshold", "snapshot_name", "config_dir"}
)


def parse_section(schema: type[T], section: Mapping[str, Any], where: str) -> T:
    """Makes the dataclass ``schema`` from a section of a config.

    Args:
        schema: a frozen dataclass with a default for every field.
        section: keys and JSON values.
        where: file and section, for messages; the last word is the section's name.

    Raises:
        UserError: a key that the schema lacks (what it may stand for is named), or a value of a
            wrong type.
    """
    annotations = typing.get_type_hints(schema)
    dead = sorted(DEAD_KEYS & set(section) - set(annotations))
    if dead:
        logger.info("%s: nothing reads %s", where, ", ".join(dead))
    values = {}
    for key, value in section.items():
        if key in annotations:
            values[key] = _typed(value, annotations[key], f"{where}.{key}")
        elif key not in DEAD_KEYS:
            hint = suggest(key, where.split()[-1], annotations)
            raise UserError(f"{where}: unknown key {key!r:.60}{hint}")
    return schema(**values)


def parse_override(override: str, sections: Iterable[str]) -> tuple[str, str, Any]:
    """Splits ``section.key=value`` of the command line, and logs it.

    Args:
        override: ``section.key=value``, the value in JSON; other text is a string.
        sections: names of the valid sections.

    Returns:
        Section, key and value; the key and the value's type are checked with the section.

    Raises:
        UserError: it does not have that form.
    """
    target, equals, text = override.partition("=")
    section, dot, key = target.partition(".")
    if not (equals and dot and key) or section not in sections:
        hint = "" if dot or not equals else suggest_section(target, sections)
        form = f"section.key=value, section one of {', '.join(sections)}"
        raise UserError(f"--set {override:.100}: write {form}{hint}")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    logger.info("--set %s.%s = %s", section, key, json.dumps(value))
    return section, key, value


def _typed(value: Any, annotation: Any, where: str) -> Any:
    """Checks a JSON value against a field's annotation; lists become tuples."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        (annotation,) = (argument for argument in arguments if argument is not type(None))
        return _typed(value, annotation, where)
    if origin is typing.Literal:
        if value not in arguments:
            one_of = ", ".join(map(repr, arguments))
            raise UserError(f"{where}: {_shown(value)} must be one of {one_of}")
        return value
    if origin is tuple:
        inner = arguments[:-1] if arguments[-1] is Ellipsis else arguments
        several = arguments[-1] is Ellipsis
        if not isinstance(value, list | tuple) or not (several or len(value) == len(inner)):
            wanted = "a list" if several else f"a list of {len(inner)}"
            raise UserError(f"{where}: {_shown(value)} must be {wanted}")
        kinds = inner * len(value) if several else inner
        return tuple(
            _typed(item, kind, f"{where}[{i}]")
            for i, (item, kind) in enumerate(zip(value, kinds, strict=True))
        )
    kind = type(value)
    if kind is not annotation and not (annotation is float and kind is int):
        raise UserError(
            f"{where}: {_shown(value)} must be {_KINDS[annotation]}{_respelt(value, annotation)}"
        )
    if kind is str:
        _require_text(value, where)
        return value
    if kind is int and abs(value) >= _TOO_LARGE:
        raise UserError(f"{where}: {_shown(value)} is too large")
    if annotation is float and not math.isfinite(value):
        raise UserError(f"{where}: {value} must be a finite number, or null where that means none")
    return annotation(value)


def _require_text(value: str, where: str) -> None:
    """Refuses characters that no path and no output can have."""
    try:
        encoded = os.fsencode(value)
    except UnicodeEncodeError:
        encoded = b"\0"
    if b"\0" in encoded:
        raise UserError(f"{where}: {_shown(value)} has characters that are no text")


def _respelt(value: Any, annotation: type) -> str:
    """End of a message about a value that has only to be written in another way."""
    word = None
    if annotation is str and isinstance(value, int | float):
        return f"; write {json.dumps(str(value))}, in double quotes"
    if isinstance(value, str):
        word = _WORDS.get(value.strip().lower())
        if annotation is not bool and re.fullmatch(r"\s*-?\d{1,18}(\.\d+)?\s*", value):
            word = value.strip()
    return "" if word is None else f"; write {word}, without quotes"


def _shown(value: Any) -> str:
    """A value for a message, cut short."""
    text = repr(value) if not isinstance(value, int) or abs(value) < _TOO_LARGE else f"{value:.3e}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
