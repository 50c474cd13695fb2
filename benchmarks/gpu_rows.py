"""Rows of results, which are kept and shown as they come."""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Value = str | int | float


@dataclass(frozen=True)
class Row:
    """What was measured, or why it was not.

    Attributes:
        section: the table that it belongs to.
        name: what was measured.
        values: numbers and words by the heads of their columns, which name the units.
        problem: why there are no values, or not all.
    """

    section: str
    name: str
    values: Mapping[str, Value] = field(default_factory=dict)
    problem: str | None = None


def attempt(section: str, name: str, measure: Callable[[], Mapping[str, Value]]) -> Row:
    """Measures the values of a row; an error becomes the row's problem."""
    try:
        return Row(section, name, measure())
    except Exception as error:
        return Row(section, name, problem=failure(error))


def failure(error: BaseException) -> str:
    """Describes the error being handled in a line, and writes its traceback to the log."""
    traceback.print_exc()
    message = " ".join(str(error).strip().split("\n")[0].split())
    return f"failed: {type(error).__name__}: {message}"


class Report:
    """Rows in a folder: ``results.jsonl`` line by line, ``report.md`` as tables; and on stdout.

    Both files are complete after each row, whatever ends the process later.

    Args:
        folder: where the files are written; older ones are replaced.
        title: the first line of the tables.
    """

    def __init__(self, folder: Path, title: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lines, self._tables = folder / "results.jsonl", folder / "report.md"
        self._begun, self._title, self.rows = time.monotonic(), title, list[Row]()
        self._lines.write_text("")
        self._write_tables()

    def add(self, row: Row) -> None:
        """Adds a row."""
        self.rows.append(row)
        spent = round(time.monotonic() - self._begun, 1)
        with self._lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"seconds": spent, **vars(row)}) + "\n")
        self._write_tables()
        cells = [f"{key} {_text(value)}" for key, value in row.values.items()]
        what = "; ".join([*cells, *([] if row.problem is None else [row.problem])])
        sys.stdout.write(f"{spent:6.1f} s  {row.section}, {row.name}: {what}\n")
        sys.stdout.flush()

    def _write_tables(self) -> None:
        unfinished = self._tables.with_suffix(".md.new")
        unfinished.write_text(f"# {self._title}\n\n{tables(self.rows)}", encoding="utf-8")
        os.replace(unfinished, self._tables)


def tables(rows: list[Row]) -> str:
    """Formats rows as Markdown: a table a section, with a column for each of its rows' values."""
    texts = []
    for section in dict.fromkeys(row.section for row in rows):
        own = [row for row in rows if row.section == section]
        columns = list(dict.fromkeys(key for row in own for key in row.values))
        problems = ["problem"] if any(row.problem for row in own) else []
        lines = [["", *columns, *problems], ["---"] * (1 + len(columns) + len(problems))]
        for row in own:
            cells = [_text(row.values[key]) if key in row.values else "" for key in columns]
            lines.append([row.name, *cells, *([row.problem or ""] if problems else [])])
        body = "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)
        texts.append(f"## {section}\n\n{body}\n")
    return "\n".join(texts)


def _text(value: Value) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
