"""Memory of a process, from Linux's account of it.

A file of its own because processes that measure themselves import it, and nothing that trains.
"""

from pathlib import Path


def megabytes(process: int, *fields: str) -> float:
    """Adds up fields of a process's ``smaps_rollup``."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    rows = (line.split() for line in lines)
    return sum(int(row[1]) for row in rows if row[0].rstrip(":") in fields) / 1024


def own_megabytes(process: int) -> float:
    """Reads the memory that a process has to itself."""
    return megabytes(process, "Private_Clean", "Private_Dirty")
