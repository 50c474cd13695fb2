"""Files that must not break a run: written completely or not at all, read without running code."""

import contextlib
import hashlib
import io
import os
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from ..config.errors import UserError

_UNFINISHED = ".unfinished"


class _Digested(io.RawIOBase):
    """A file that writes to another one, and computes the sha256 of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.sha256 = file, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return self._file.write(data)


def write_together(
    writers: Mapping[Path, Callable[[BinaryIO], Any]], sha256: dict[Path, str] | None = None
) -> None:
    """Writes files of one folder that belong together.

    All are written and flushed as temporary files, and then renamed, the first of them last. So if
    the first one exists, the others belong to it, whenever the process was killed.

    Args:
        writers: functions that write the content into an open binary file, by path.
        sha256: receives the sha256 of every file, by path, before the next is written.

    Raises:
        OSError: a file could not be written; the files from before are there again.
    """
    temporaries = {path: _temporary(path, "new") for path in writers}
    sha256 = {} if sha256 is None else sha256
    try:
        for path, temporary in temporaries.items():
            with temporary.open("wb") as file:
                digested = _Digested(file)
                writers[path](cast(BinaryIO, digested))
                file.flush()
                os.fsync(file.fileno())
            sha256[path] = digested.sha256.hexdigest()
        _replace_together(temporaries)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # torch.save hides it
            raise error.__context__ from None
        raise
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


def _replace_together(temporaries: Mapping[Path, Path]) -> None:
    """Renames temporary files to their paths, the first of them last; all of them, or none."""
    first, *others = temporaries
    moved: dict[Path, Path] = {}
    placed: list[Path] = []
    try:
        # Renaming is atomic for one file. Of several, the old first one must not be there together
        # with new others.
        for path in (first, *others) if others else ():
            if path.exists():
                os.replace(path, _temporary(path, "old"))
                moved[path] = _temporary(path, "old")
        for path in (*reversed(others), first):
            os.replace(temporaries[path], path)
            placed.append(path)
    except OSError:
        for path in placed:
            path.unlink()
        for path in reversed(moved):
            os.replace(moved[path], path)
        raise
    for old in moved.values():
        old.unlink(missing_ok=True)
    _flush_names(first.parent)


def _flush_names(folder: Path) -> None:
    """Flushes the names of a folder's files to the disk, if the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems do not offer it
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Removes the temporary files that processes left in a folder when they were killed.

    Files that were moved aside for new ones are moved back if not all of the new ones exist.
    """
    moved: dict[str, dict[Path, Path]] = {}  # by process and by the path that a file had
    for path in folder.glob(f".*.old{_UNFINISHED}"):
        name, process = path.name[1 : -len(f".old{_UNFINISHED}")].rsplit(".", 1)
        moved.setdefault(process, {})[path.with_name(name)] = path
    for old in moved.values():
        if not all(place.exists() for place in old):
            for place, path in old.items():
                os.replace(path, place)
    for path in folder.glob(f".*{_UNFINISHED}"):
        path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Returns the sha256 of a file, in hexadecimal; raises OSError if it cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_torch_file(path: Path) -> Any:
    """Reads a file of ``torch.save``, tensors on the CPU; code in the file is never run.

    Args:
        path: a file that exists.

    Raises:
        UserError: the file is cut short, cannot be read, or has code in it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL \S+|Unsupported operand \d+", str(error))
        if code and _is_of_torch(path):
            raise UserError(
                f"{path} was refused: it is a pickle that holds more than weights ({code[0]}) "
                "and could run code; give a file that torch.save wrote from a state dict"
            ) from None
        reason: BaseException = error
        if not _is_of_torch(path):
            reason = ValueError("it does not begin as a file of torch.save")
    except PermissionError:
        raise UserError(f"{path} cannot be read: this user may not open it") from None
    except Exception as error:  # a cut file fails in as many ways as there are places to cut it
        reason = error
    summary = " ".join(str(reason).split())[:120].strip() or type(reason).__name__
    raise UserError(f"{path} is cut short, or not a snapshot ({summary}); take another one")


def _is_of_torch(path: Path) -> bool:
    """True if a file begins as ``torch.save``, now or in old versions, begins it."""
    with path.open("rb") as file:
        return file.read(2).startswith((b"PK", b"\x80"))


def _temporary(path: Path, kind: str) -> Path:
    """Returns this process's temporary path for a file that will be, or was, at ``path``."""
    return path.with_name(f".{path.name}.{os.getpid()}.{kind}{_UNFINISHED}")
