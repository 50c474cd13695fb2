"""The examples, read so that they use the package of this clone, under its name here."""

import re
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def as_core(source: str) -> str:
    """Replaces the name of the installed package in a program."""
    return re.sub(r"\bcornerkit\b(?=[.\s])", "core", source)
