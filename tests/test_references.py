"""Cross-references in docstrings: every :func:, :class:, … names something of that kind."""

import ast
import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(
    file.relative_to(ROOT)
    for package in ("core", "cpools_ext")
    for file in ROOT.glob(f"{package}/**/*.py")
)
REFERENCE = re.compile(r":([a-z]+):`~?([^`]+)`")
KINDS: dict[str, Callable[[Any], bool]] = {
    "mod": lambda found: isinstance(found, ModuleType),
    "class": lambda found: isinstance(found, type),
    "func": callable,
    "meth": callable,
    "data": lambda found: found is not None,
}


def docstrings(source: str) -> Iterator[tuple[str, str | None]]:
    """Docstrings of a file, each with the name of the class that it is in, if there is one."""

    def visit(node: ast.AST, owner: str | None) -> Iterator[tuple[str, str | None]]:
        if isinstance(node, ast.ClassDef):
            owner = node.name
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield ast.get_docstring(node) or "", owner
        for child in ast.iter_child_nodes(node):
            yield from visit(child, owner)

    return visit(ast.parse(source), None)


def inside(scope: Any, parts: list[str]) -> Any:
    """The object at the end of a path of attributes; None if there is none."""
    for part in parts:
        scope = getattr(scope, part, None)
    return scope


def resolve(name: str, module: ModuleType, owner: str | None) -> Any:
    """The object that a name in a docstring of ``module`` means; None if there is none."""
    if name.startswith("."):
        name = f"{module.__package__}{name}"
    parts = name.split(".")
    scopes = [getattr(module, owner, None)] if owner else []
    for scope in [*scopes, module]:
        found = inside(scope, parts)
        if found is not None:
            return found
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        return inside(found, parts[end:])
    return None


def wrong_references(source: str, module: ModuleType) -> list[str]:
    """References of a file that name nothing, or something of another kind."""
    return [
        match.group()
        for text, owner in docstrings(source)
        for match in REFERENCE.finditer(text)
        if not KINDS.get(match[1], lambda _: False)(resolve(match[2], module, owner))
    ]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_references_resolve(file: Path) -> None:
    name = ".".join(file.with_suffix("").parts).removesuffix(".__init__")
    assert not wrong_references(
        (ROOT / file).read_text(encoding="utf-8"), importlib.import_module(name)
    )


def test_wrong_references_are_found() -> None:
    module = importlib.import_module("core.structures")
    source = '''
"""Fine: :mod:`core.decode`, :class:`Batch`, :func:`.structures.collate`, :func:`torch.cummax`."""
class Batch:
    """Fine: :meth:`pin_memory`. Wrong: :meth:`unpin`, :class:`core.structures.Bunch`."""
    def pin_memory():
        """Wrong: :class:`collate`, :func:`core.none.collate`, :mod:`core.structures.Batch`."""
'''
    assert wrong_references(source, module) == [
        ":meth:`unpin`",
        ":class:`core.structures.Bunch`",
        ":class:`collate`",
        ":func:`core.none.collate`",
        ":mod:`core.structures.Batch`",
    ]
