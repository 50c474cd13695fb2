"""Signals that wait for the end of a step: Ctrl-C, a termination, the death of a loader worker."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import torch.distributed as dist

_NOTICE = b"\n%s: finishing this step, then saving; once more ends at once\n"


class Signals:
    """Holds signals back while the context is open.

    Outside the main thread, where Python does not handle signals, it holds none back.

    A second signal of the kind that asked for the end does what it would have done without this
    class. A process that torchrun started holds back all of them until it exits, also while it
    writes its last snapshot: its signals come from torchrun or from the end of the whole job, and
    torchrun kills a process that takes too long.

    Attributes:
        asked: name of the signal that asked the process to end, or None.
    """

    def __init__(self) -> None:
        self.asked: str | None = None
        self._previous: dict[int, Any] = {}
        self._child_died = False
        self._process = os.getpid()
        self._by_torchrun = dist.is_torchelastic_launched()

    def __enter__(self) -> "Signals":
        # Workers forked from here on inherit the handlers: a Ctrl-C in a terminal reaches them too.
        self._hold(signal.SIGINT, self._ask)
        self._hold(signal.SIGTERM, self._ask)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number in list(self._previous):
            if not (self._by_torchrun and number in (signal.SIGINT, signal.SIGTERM)):
                self._restore(number)

    def hold_worker_deaths(self) -> None:
        """Holds back PyTorch's handler of dead loader workers; call it once they have started.

        That handler raises wherever the process is, even in the middle of an update of the weights.
        """
        if sys.platform != "win32" and callable(signal.getsignal(signal.SIGCHLD)):
            self._hold(signal.SIGCHLD, self._child)

    def worker_death(self) -> str | None:
        """Asks PyTorch's handler about the workers, if a child ended since the last call.

        Returns:
            PyTorch's message about the worker that died; None if all are alive.
        """
        if not self._child_died:
            return None
        self._child_died = False
        try:
            self._previous[signal.SIGCHLD](signal.SIGCHLD, None)
        except RuntimeError as error:
            return str(error).strip()
        return None

    def _hold(self, number: int, handler: Callable[[int, FrameType | None], None]) -> None:
        if threading.current_thread() is threading.main_thread():
            self._previous[number] = signal.signal(number, handler)

    def _restore(self, number: int) -> None:
        signal.signal(number, self._previous.pop(number))

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a worker: its parent ends it
            return
        self.asked = signal.Signals(number).name
        if self._by_torchrun:
            return
        self._restore(number)
        os.write(2, _NOTICE % self.asked.encode())  # logging may be in the middle of a line

    def _child(self, number: int, frame: FrameType | None) -> None:
        self._child_died = True
