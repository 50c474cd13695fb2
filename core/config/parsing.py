"""Sections of a config: JSON values checked against a dataclass, key by key and type by type."""

import difflib
import json
import logging
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from .errors import UserError

logger = logging.getLogger(__name__)

T = TypeVar("T")

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
        where: file and section, for messages.

    Raises:
        UserError: a key that the schema lacks (the nearest is named), or a value of a wrong type.
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
            raise UserError(f"{where}: unknown key {key!r}{nearest(key, annotations)}")
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
        raise UserError(
            f"--set {override}: write section.key=value, section one of {', '.join(sections)}"
        )
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    logger.info("--set %s.%s = %s", section, key, json.dumps(value))
    return section, key, value


def nearest(key: str, valid: Iterable[str]) -> str:
    """End of a message about an unknown key: the valid key that is most similar."""
    valid = sorted(valid)
    near = difflib.get_close_matches(key, valid, 1, 0)
    return f"; did you mean {near[0]!r}?" if near else ""


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
            raise UserError(f"{where}: {value!r} must be one of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        inner = arguments[:-1] if arguments[-1] is Ellipsis else arguments
        several = arguments[-1] is Ellipsis
        if not isinstance(value, list | tuple) or not (several or len(value) == len(inner)):
            wanted = "a list" if several else f"a list of {len(inner)}"
            raise UserError(f"{where}: {value!r} must be {wanted}")
        kinds = inner * len(value) if several else inner
        return tuple(
            _typed(item, kind, f"{where}[{i}]")
            for i, (item, kind) in enumerate(zip(value, kinds, strict=True))
        )
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, annotation) or (annotation is int and isinstance(value, bool)):
        names = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
        raise UserError(f"{where}: {value!r} must be {names[annotation]}")
    return value
