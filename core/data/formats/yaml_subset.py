"""The part of YAML that files of datasets use, so that reading one needs no other package.

Read are texts, lists (``[a, b]``, over several lines, too, or a ``- a`` a line), maps (``{0: a}``,
or a ``0: a`` a line), quotes and comments. The rest of YAML is refused, with its line, in the
entries that are asked for, and passed over in others.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ...config.errors import UserError
from .source import read_text

Scalar = str | None
Value = Scalar | list[Scalar] | dict[str, Scalar]

_NULL = ("", "~", "null", "Null", "NULL")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0"}
_QUOTED = re.compile(r""""((?:[^"\\]|\\.)*)"|'((?:[^']|'')*)'""")
# A key, quoted or not, its colon, and the rest, which a space or nothing separates from it.
_ENTRY = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^\s#'"][^:#]*?)\s*:(?:\s+|$)(.*)""")


class _Line(NamedTuple):
    number: int  # from 1
    text: str  # without comment and trailing space


def read_yaml(file: Path, keys: Sequence[str]) -> dict[str, Value]:
    """Reads entries at the top of a YAML file; texts, also numbers, stay as they are written.

    Args:
        file: the file.
        keys: names of the entries to read.

    Returns:
        Text, list, map or None (for nothing, ``~`` and ``null``) of those entries that are there.

    Raises:
        UserError: it cannot be read, or uses more of YAML than is read here; the line is named.
    """
    text = read_text(file)
    try:
        return _parse(text, keys)
    except _Refused as error:
        raise UserError(f"{file}:{error.line}: {error}") from None


class _Refused(ValueError):
    """What this reader does not read, and the line where it stands."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def _parse(text: str, keys: Sequence[str]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for key, lines in _entries(text):
        if key in found:
            raise _Refused(lines[0].number, f"a second {key!r}; leave one of them out")
        if key in keys:
            found[key] = _value(lines)
    return found


def _entries(text: str) -> Iterator[tuple[str, list[_Line]]]:
    """Splits a file into the entries at its top: the key, and the lines after its colon."""
    key, lines, depth = "", list[_Line](), 0
    for number, raw in enumerate(text.splitlines(), 1):
        line, brackets = _without_comment(raw)
        if not line or line in ("---", "..."):
            continue
        inside = line[0] in " \t" or depth > 0 or (bool(key) and re.match(r"-(\s|$)", line))
        if inside and not key:
            raise _Refused(number, f"{line.strip()!r} belongs to no key")
        if not inside:
            entry = _ENTRY.fullmatch(line)
            if entry is None:
                raise _Refused(number, f"{line!r} is not of the form key: value")
            if key:
                yield key, lines
            key, line, lines, depth = _text(entry[1], number) or "", entry[2], [], 0
        lines.append(_Line(number, line))
        # In another entry, such as a script, brackets may mean anything.
        first = lines[0].text
        depth = depth + brackets if first.startswith(("[", "{")) else 0
    if key:
        yield key, lines


def _without_comment(raw: str) -> tuple[str, int]:
    """Cuts a line's comment off, and counts its opened less its closed brackets."""
    depth, position, before = 0, 0, ":"  # the last character that is no space
    while position < len(raw):
        character = raw[position]
        quoted = _QUOTED.match(raw, position) if before in ":,[{-" else None
        if quoted:
            position = quoted.end() - 1
        elif character == "#" and (position == 0 or raw[position - 1].isspace()):
            raw = raw[:position]
            break
        else:
            depth += (character in "[{") - (character in "]}")
        before = before if raw[position].isspace() else raw[position]
        position += 1
    return raw.rstrip(), depth


def _value(lines: list[_Line]) -> Value:
    first, rest = lines[0], lines[1:]
    if first.text.startswith(("[", "{")):
        return _flow(" ".join(line.text.strip() for line in lines), first.number)
    if first.text:
        if rest:
            raise _Refused(rest[0].number, "a value goes on over two lines; write it in one")
        return _text(first.text, first.number)
    if not rest:
        return None
    indents = {len(line.text) - len(line.text.lstrip()) for line in rest}
    if len(indents) > 1:
        raise _Refused(rest[0].number, "entries within entries, or uneven indents, are not read")
    if all(re.match(r"\s*-(\s|$)", line.text) for line in rest):
        return [_text(line.text.strip()[1:].strip(), line.number) for line in rest]
    return _map((line.text.strip(), line.number) for line in rest)


def _flow(text: str, line: int) -> Value:
    """Reads a list or a map in brackets."""
    closing = "]" if text[0] == "[" else "}"
    items, position = list[str](), 1
    while True:
        item, position = _item(text, position, line)
        end = text[position : position + 1]
        if item or end == ",":
            items.append(item)
        if end == closing:
            break
        if end != ",":
            raise _Refused(line, f"{text[:40]!r} has no closing {closing!r}, or has brackets in it")
        position += 1
    if text[position + 1 :].strip():
        raise _Refused(line, f"there is more after {closing!r}: {text[position + 1 :].strip()!r}")
    if closing == "]":
        return [_text(item, line) for item in items]
    return _map((item, line) for item in items)


def _item(text: str, position: int, line: int) -> tuple[str, int]:
    """Finds the end of an item of a list or map in brackets; returns the item and its end."""
    start, before = position, ","
    while position < len(text) and text[position] not in ",[]{}":
        quoted = _QUOTED.match(text, position) if before in ",:" else None
        before = before if text[position].isspace() else text[position]
        position = quoted.end() if quoted else position + 1
    return text[start:position].strip(), position


def _map(items: Iterator[tuple[str, int]]) -> dict[str, Scalar]:
    found: dict[str, Scalar] = {}
    for item, line in items:
        entry = _ENTRY.fullmatch(item)
        if entry is None:
            raise _Refused(line, f"{item!r} is not of the form key: value")
        key = _text(entry[1], line) or ""
        if key in found:
            raise _Refused(line, f"a second {key!r}; leave one of them out")
        found[key] = _text(entry[2], line)
    return found


def _text(written: str, line: int) -> Scalar:
    """Reads one text, in quotes or without; None for nothing."""
    quoted = _QUOTED.fullmatch(written)
    if quoted and quoted[1] is not None:
        return re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), quoted[1])
    if quoted:
        return quoted[2].replace("''", "'")
    if written in _NULL:
        return None
    if written[0] in "\"'&*!|>%@`[]{}," or re.search(r":\s|^-\s", written):
        raise _Refused(line, f"{written!r} is not read here; put texts into quotes")
    return written
