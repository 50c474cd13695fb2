"""Results and figures as files and as text, and a progress bar."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from ..checkpoint.files import write_together

T = TypeVar("T")


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    """Writes a JSON file, whole or not at all; folders are made.

    Args:
        path: the file, replaced if it is there.
        content: plain JSON values, all numbers finite.
        indent: as in :func:`json.dumps`.
    """
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_together({path: lambda file: file.write(text.encode() + b"\n")})


def class_table(ap_by_class: Mapping[str, float | None], columns: int = 3) -> str:
    """AP of each class as lines of ``columns`` classes; ``-`` where there is no object to find."""
    width = max(map(len, ap_by_class), default=0)
    cells = [
        f"{name:<{width}}  {'-' if ap is None else f'{ap:.3f}':>5}"
        for name, ap in ap_by_class.items()
    ]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return "\n".join(" " + "    ".join(row) for row in rows)


def progress(items: Iterable[T], total: int | None, unit: str, shown: bool = True) -> Iterator[T]:
    """Passes items on under a progress bar; where nobody looks on, it is a line now and then.

    Args:
        items: any.
        total: how many they are; None: nobody knows.
        unit: the word for one of them.
        shown: whether there is a bar at all.
    """
    interval = 0.5 if sys.stderr.isatty() else 30
    words: dict[str, Any] = {"total": total, "unit": unit, "disable": not shown}
    return iter(tqdm(items, mininterval=interval, dynamic_ncols=True, **words))
