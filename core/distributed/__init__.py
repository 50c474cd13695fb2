"""Processes that train or evaluate together: the interface for the rest of the package.

- :func:`join_ranks` gives a process its :class:`Ranks`, with their collectives; a single process
  gets :data:`ONE_PROCESS`, whose collectives do nothing.
- :class:`Signals` holds back signals that would end a process in the middle of a step;
  :class:`Stream` yields batches until one rank has such a signal, or lost its loader, and raises
  :class:`Stopped` on all ranks at the same step.
- :func:`launch` starts a process for every device, as ``--distributed`` asks.

Each mechanism is here because a test fails without it: cut networks, killed ranks and restarts in
``tests/distributed/test_faults.py``, the rest in the tests beside it.
"""

from .agreement import Stopped, Stream
from .join import join_ranks
from .launch import add_distributed_arguments, is_launcher, launch
from .ranks import ONE_PROCESS, Ranks, no_gradient_sync
from .signals import Signals

__all__ = [
    "ONE_PROCESS",
    "Ranks",
    "Signals",
    "Stopped",
    "Stream",
    "add_distributed_arguments",
    "is_launcher",
    "join_ranks",
    "launch",
    "no_gradient_sync",
]
