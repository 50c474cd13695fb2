"""Values of annotation records as people and their tools write them.

A value that is written otherwise than COCO does is read where it can mean only one thing: a number
in quotes, a whole number with a decimal point, ``"false"``. Each function returns the value, None
if it cannot be read, and a phrase about how it was read, None if it was as it should be.
"""

import re
import reprlib
from typing import Any

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_NOT_FINITE = {"nan", "inf", "+inf", "-inf", "infinity", "+infinity", "-infinity"}
_LONGEST_NUMBER = 100  # characters
_INT64 = 2**63
_EXACT = 2.0**53  # up to it, float64 holds every whole number

_TRUTHS = {
    **dict.fromkeys(("false", "f", "no", "n", "0", "0.0", ""), False),
    **dict.fromkeys(("true", "t", "yes", "y", "1", "1.0"), True),
}

_SURROGATES = re.compile("[\ud800-\udfff]")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")

FROM_TEXT = "read from text"
FROM_DECIMAL = "read from a number with a decimal point"
FROM_NULL = "read as false from null"
FROM_NUMBER = "read from a number"
NO_CONTROLS = "without its control characters"
NO_SURROGATES = "with U+FFFD for characters that are none (lone surrogates)"

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60
_short.maxlist = _short.maxdict = 4


def shown(value: Any) -> str:
    """Writes a value of a record for a message: on one line, shortened."""
    return _short.repr(value)


def read_integer(value: Any) -> tuple[int | None, str | None]:
    """Reads a whole number of 64 bits: an id, a height or a width."""
    how = None
    if isinstance(value, str):
        text, how = value.strip(), FROM_TEXT
        if len(text) > _LONGEST_NUMBER or not _NUMBER.fullmatch(text):
            return None, None
        value = int(text) if _INTEGER.fullmatch(text) else float(text)
    if isinstance(value, float) and abs(value) <= _EXACT and value.is_integer():
        value, how = int(value), how or FROM_DECIMAL
    if type(value) is int and -_INT64 <= value < _INT64:
        return value, how
    return None, None


def read_number(value: Any) -> tuple[float | None, str | None]:
    """Reads a number, which may be infinite or not a number."""
    if isinstance(value, str):
        text = value.strip().lower()
        is_number = text in _NOT_FINITE or _NUMBER.fullmatch(text)
        return (float(text), FROM_TEXT) if is_number else (None, None)
    if type(value) not in (int, float):
        return None, None
    try:
        return float(value), None
    except OverflowError:
        return None, None


def read_truth(value: Any) -> tuple[bool | None, str | None]:
    """Reads a truth value such as ``iscrowd``."""
    if value is None:
        return False, FROM_NULL
    if isinstance(value, str):
        truth = _TRUTHS.get(value.strip().lower())
        return truth, None if truth is None else FROM_TEXT
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value), FROM_DECIMAL if isinstance(value, float) else None
    return None, None


def read_box(value: Any) -> tuple[list[float] | None, str | None]:
    """Reads a list of four numbers."""
    if not isinstance(value, list | tuple) or len(value) != 4:
        return None, None
    box: list[float] = []
    hows: list[str | None] = []
    for side in value:
        number, how = read_number(side)
        if number is None:
            return None, None
        box.append(number)
        hows.append(how)
    return box, next(filter(None, hows), None)


def read_name(value: Any) -> tuple[str | None, str | None]:
    """Reads the name of a class, which must not be empty.

    Control characters would break tables and logs, and lone surrogates cannot be written to a file
    at all.
    """
    if type(value) is int and -_INT64 <= value < _INT64:
        return str(value), FROM_NUMBER
    if not isinstance(value, str):
        return None, None
    hows = []
    name = _SURROGATES.sub("\ufffd", value)
    if name != value:
        hows.append(NO_SURROGATES)
    if _CONTROLS.search(name):
        name = _CONTROLS.sub(" ", name).strip()
        hows.append(NO_CONTROLS)
    return (name, " and ".join(hows) or None) if name else (None, None)
