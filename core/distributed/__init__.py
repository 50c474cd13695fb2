"""Processes that train or evaluate together."""

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
