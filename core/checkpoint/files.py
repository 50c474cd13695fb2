"""Files that must not break a run: written whole or not at all, read without running their code."""

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
    """A file that is written through it, and the sha256 of what was."""

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

    Each is written and flushed beside its place before any takes it, and then they take it, the
    first of them last. So where the first one is, the others belong to it, whenever the process
    was killed.

    Args:
        writers: by place, what writes the content into an open binary file.
        sha256: is given the sha256 of every file, by place, before the next is written.

    Raises:
        OSError: a file could not be written; what was there before is there again.
    """
    temporaries = {path: _beside(path, "new") for path in writers}
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
        if isinstance(error.__context__, OSError):  # torch.save covers it
            raise error.__context__ from None
        raise
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


def _replace_together(temporaries: Mapping[Path, Path]) -> None:
    """Puts files in their places, the first of them last; all of them, or none."""
    first, *others = temporaries
    moved: dict[Path, Path] = {}
    placed: list[Path] = []
    try:
        # One file takes its place in one go. Of several, the first must not stand beside new ones.
        for path in (first, *others) if others else ():
            if path.exists():
                os.replace(path, _beside(path, "old"))
                moved[path] = _beside(path, "old")
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
    """Has the system write down which files are where in a folder, if it lets itself be asked."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems do not offer it
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Clears away what processes that were killed while they wrote left in a folder.

    Files that had made room for new ones, not all of which came, are put back.
    """
    moved: dict[str, dict[Path, Path]] = {}  # by process, where they were: see _beside
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
    """The sha256 of a file, in hexadecimal; OSError where it cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_torch_file(path: Path) -> Any:
    """Reads what ``torch.save`` wrote, tensors on the CPU; code in the file is never run.

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
        if code:
            raise UserError(
                f"{path} was refused: it is a pickle that holds more than weights ({code[0]}) "
                "and could run code; give a file that torch.save wrote from a state dict"
            ) from None
        reason: BaseException = error
    except PermissionError:
        raise UserError(f"{path} cannot be read: this user may not open it") from None
    except Exception as error:  # a cut file fails in as many ways as there are places to cut it
        reason = error
    summary = " ".join(str(reason).split())[:120].strip() or type(reason).__name__
    raise UserError(f"{path} is cut short, or not a snapshot ({summary}); take another one")


def _beside(path: Path, what: str) -> Path:
    """The name of a file of this process that is on its way to or from its place."""
    return path.with_name(f".{path.name}.{os.getpid()}.{what}{_UNFINISHED}")
