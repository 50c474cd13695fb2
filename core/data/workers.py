"""What is said of a worker process of a loader that ended before its time."""

LOST_WORKER = "DataLoader worker (pid"  # what PyTorch's error begins with

# Signals that the system ends a process by, then; and what is said where the signal is unknown.
_OUT_OF_MEMORY = ("Killed", "Bus error", "exited unexpectedly")
_HINT = " If nobody ended it, memory ran out: lower system.workers or system.prefetch_size"


def lost_worker_hint(told: str) -> str:
    """What to append to PyTorch's error; nothing where memory is not what was missing."""
    return _HINT if any(name in told for name in _OUT_OF_MEMORY) else ""
