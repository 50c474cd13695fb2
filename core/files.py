"""Files that must not break a run: written whole or not at all, read without running their code."""

import os
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from core.errors import UserError


def write_together(writers: Mapping[Path, Callable[[BinaryIO], Any]]) -> None:
    """Writes files that belong together.

    Each is written and flushed beside its place before any takes it, and then they take it in
    order. So where the last one is, the others belong to it, whenever the process was killed.

    Args:
        writers: by place, what writes the content into an open binary file.

    Raises:
        OSError: a file could not be written; nothing has changed.
    """
    *_, last = writers
    places = {path.with_name(f".{path.name}.{os.getpid()}.tmp"): path for path in writers}
    try:
        for temporary, path in places.items():
            with temporary.open("wb") as file:
                writers[path](file)
                file.flush()
                os.fsync(file.fileno())
        last.unlink(missing_ok=True)
        for temporary, path in places.items():
            os.replace(temporary, path)
    finally:
        for temporary in places:
            temporary.unlink(missing_ok=True)


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
