"""Parts of a benchmark in processes of their own: what one breaks or hangs, the others survive."""

import contextlib
import importlib
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from benchmarks.gpu_rows import Report, Row, failure

ENDING = 10.0  # seconds that a process has to end after its last row


@dataclass(frozen=True)
class Setting:
    """What a part is given.

    Attributes:
        device: ``cuda``, or ``cpu`` for tiny sizes.
        folder: where to leave logs.
        begun: when the part was started, by :func:`time.monotonic`.
        seconds: time that the part has.
    """

    device: str
    folder: Path
    begun: float = 0.0
    seconds: float = 0.0

    @property
    def tiny(self) -> bool:
        """True: nothing is measured, so that small sizes will do."""
        return self.device == "cpu"


@dataclass(frozen=True)
class Part:
    """A part of a benchmark.

    Attributes:
        section: section of its rows.
        name: its name, which the row of a failure gets.
        function: ``"module:function"``, which is called with a :class:`Setting` and ``arguments``
            and yields rows. It is found in the part's process: this one imports no PyTorch.
        arguments: further arguments.
        limit: most seconds that it gets.
        least: with fewer seconds left it is not begun.
    """

    section: str
    name: str
    function: str
    arguments: tuple[Any, ...] = ()
    limit: float = 60.0
    least: float = 5.0

    @property
    def log(self) -> str:
        """Name of the file with what its process writes."""
        return file_name(f"{self.section} {self.name}", ".log")


def file_name(text: str, suffix: str) -> str:
    """Makes a file's name of a text."""
    return re.sub(r"[^A-Za-z0-9]+", "_", text) + suffix


def run_parts(parts: list[Part], setting: Setting, seconds: float, report: Report) -> None:
    """Runs parts one after the other, and reports their rows and their problems.

    Args:
        parts: the most valuable first.
        setting: what every part is given.
        seconds: time for all of them.
        report: gets the rows as they come.
    """
    end = time.monotonic() + seconds
    for part in parts:
        left = end - time.monotonic()
        if left < part.least:
            report.add(Row(part.section, part.name, problem="not begun: no time left"))
            continue
        for row in run_part(part, setting, min(part.limit, left)):
            report.add(row)


def run_part(part: Part, setting: Setting, limit: float) -> Iterator[Row]:
    """Runs a part in a process of its own, and yields its rows as they come.

    The last row says so where it failed, or was not done in time.
    """
    setting = replace(setting, begun=time.monotonic(), seconds=limit)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_run, args=(part, setting, sender), name=part.name)
    process.start()
    sender.close()
    try:
        done = False
        while not done:
            left = setting.begun + limit - time.monotonic()
            ready = wait([receiver, process.sentinel], max(0.0, left))
            if not ready:
                yield Row(part.section, part.name, problem=f"out of time after {limit:.3g} s")
                return
            row = _receive(receiver)
            if row is None:
                done = True
            else:
                yield row
        process.join(ENDING)
        if process.exitcode not in (0, None):
            how = _how_it_ended(process.exitcode)
            yield Row(part.section, part.name, problem=f"failed: {how}; see {part.log}")
    finally:
        receiver.close()
        _end(process)


def log_of(part: Part, setting: Setting) -> Path:
    """File with what a part's process writes."""
    return setting.folder / part.log


def _receive(receiver: Connection) -> Row | None:
    """Receives a row; None: there are no more."""
    try:
        return receiver.recv() if receiver.poll() else None
    except EOFError:
        return None


def _how_it_ended(code: int) -> str:
    try:
        return f"its process was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"its process ended with {code}"


def _end(process: Any) -> None:
    """Ends a part's process, and those that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # had it no group of its own yet
    process.join()
    process.close()


def _run(part: Part, setting: Setting, sender: Connection) -> None:
    """Runs a part in this process, and sends its rows."""
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    file = os.open(
        log_of(part, setting), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644
    )
    for output in (1, 2):
        os.dup2(file, output)
    try:
        module, function = part.function.split(":")
        rows: Callable[..., Iterator[Row]] = getattr(importlib.import_module(module), function)
        for row in rows(setting, *part.arguments):
            sender.send(row)
    except Exception as error:
        sender.send(Row(part.section, part.name, problem=failure(error)))
    sender.send(None)


def _end_with_parent() -> None:
    """Ends this process, and those that it started, when the one that runs the parts is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(os.getpgrp(), signal.SIGKILL)
