"""Fields of an annotation file's records as arrays, with a count of the values that were repaired.

Where all values of a field are written as COCO writes them, which one pass in C finds out, they
become an array at once; otherwise they are read one by one.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from .record_values import read_box, read_integer, read_name, read_number, read_truth, shown
from .records import Records

_NOUNS = {"annotations": "annotation", "categories": "category", "images": "image"}


@dataclass(frozen=True)
class Repair:
    """Values that were read in spite of how they are written: how many, how, and one of them."""

    field: str
    table: str
    count: int
    how: str
    example: str

    def __str__(self) -> str:
        rows = counted(self.count, self.table)
        return f"{self.field} of {rows} {self.how}, such as {self.example}"


class Column(NamedTuple):
    """One field of all records of a table.

    Attributes:
        values: array [n, …]; undefined where a value cannot be read.
        readable: bool [n].
        repairs: one for each way in which values were repaired.
    """

    values: np.ndarray
    readable: np.ndarray
    repairs: list[Repair]


class Kind(NamedTuple):
    """A kind of value.

    Attributes:
        dtype, shape: of an array of such values, its shape without the first dimension.
        read: function that reads one value, as in :mod:`core.data.record_values`.
        read_plain: function that makes an array of values if all are written as COCO does, and
            otherwise returns None.
        missing: value that a record without the field has.
    """

    dtype: type
    shape: tuple[int, ...]
    read: Callable[[Any], tuple[Any, str | None]]
    read_plain: Callable[[list[Any]], np.ndarray | None]
    missing: Any = None


def read_column(rows: Sequence[Records], field: str, table: str, kind: Kind) -> Column:
    """Reads one field of all records of a table.

    Args:
        rows: the records.
        field: name of the field.
        table: name of the table, for messages.
        kind: what the values are.
    """
    given = [row.get(field, kind.missing) for row in rows]
    plain = kind.read_plain(given)
    if plain is not None:
        return Column(plain, np.ones(len(rows), bool), [])
    values: np.ndarray = np.zeros((len(rows), *kind.shape), kind.dtype)
    readable = np.ones(len(rows), bool)
    counts, examples = Counter[str](), dict[str, str]()
    for number, value in enumerate(given):
        read, how = kind.read(value)
        if read is None:
            readable[number] = False
            continue
        values[number] = read
        if how is not None:
            counts[how] += 1
            examples.setdefault(how, f"{shown(value)} of {named(rows[number], number, table)}")
    repairs = [Repair(field, table, count, how, examples[how]) for how, count in counts.items()]
    return Column(values, readable, repairs)


def named(record: Records, row: int, table: str) -> str:
    """Names a record in a message: by its id, or without one by its position in the file."""
    noun = _NOUNS[table]
    return f"{noun} {shown(record['id'])}" if "id" in record else f"{noun} number {row}"


def counted(count: int, table: str) -> str:
    """Writes a number of records of a table: ``1 category``, ``2 categories``."""
    return f"{count} {_NOUNS[table] if count == 1 else table}"


def _plain_integers(values: list[Any]) -> np.ndarray | None:
    return _array(values, np.int64) if set(map(type, values)) <= {int} else None


def _plain_numbers(values: list[Any]) -> np.ndarray | None:
    return _array(values, np.float64) if set(map(type, values)) <= {int, float} else None


def _plain_truths(values: list[Any]) -> np.ndarray | None:
    plain = set(map(type, values)) <= {int, bool} and set(values) <= {0, 1}
    return np.array(values, bool) if plain else None


def _plain_boxes(values: list[Any]) -> np.ndarray | None:
    if not (set(map(type, values)) <= {list} and set(map(len, values)) <= {4}):
        return None
    sides = _plain_numbers(list(chain.from_iterable(values)))
    return None if sides is None else sides.reshape(-1, 4)


def _no_plain_values(values: list[Any]) -> np.ndarray | None:
    return None


def _array(values: list[Any], dtype: type) -> np.ndarray | None:
    try:
        return np.array(values, dtype)
    except OverflowError:  # an integer that is too large for it
        return None


INTEGER = Kind(np.int64, (), read_integer, _plain_integers)
NUMBER = Kind(np.float64, (), read_number, _plain_numbers)
TRUTH = Kind(bool, (), read_truth, _plain_truths, missing=False)
BOX = Kind(np.float64, (4,), read_box, _plain_boxes)
NAME = Kind(object, (), read_name, _no_plain_values)
