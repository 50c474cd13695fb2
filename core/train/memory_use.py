"""How much memory this process holds."""

import contextlib
import os
from pathlib import Path

import torch

_STATISTICS = Path("/proc/self/statm")  # in pages: size, resident size, …
_STATUS = Path("/proc/self/status")  # by name, in kB
_FORGET_PEAK = Path("/proc/self/clear_refs"), "5"  # what to write, and where to


def memory_use() -> dict[str, int]:
    """Bytes by kind; a kind that this system does not tell is left out.

    Returns:
        ``resident``: of this process in main memory now, with what it shares with its loader
        workers; ``cuda_peak``: the most that tensors took at a time on the CUDA device in use.
    """
    use = {}
    if _STATISTICS.is_file():
        use["resident"] = int(_STATISTICS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if torch.cuda.is_initialized():
        devices = range(torch.cuda.device_count())
        use["cuda_peak"] = max(torch.cuda.max_memory_allocated(device) for device in devices)
    return use


class Peak:
    """The most memory that was in use at a time within it; a context manager.

    Args:
        device: a CUDA device, whose tensors are counted, or a CPU, for what of this process is in
            main memory.

    Attributes:
        bytes: known once it was left; None where the system does not tell.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.bytes: int | None = None

    def __enter__(self) -> "Peak":
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            with contextlib.suppress(OSError):  # then it is that of the process's life
                _FORGET_PEAK[0].write_text(_FORGET_PEAK[1])
        return self

    def __exit__(self, *error: object) -> None:
        if self._device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self._device)
        elif self._device.type == "cpu" and _STATUS.is_file():
            fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
            self.bytes = int(fields["VmHWM"].split()[0]) * 1024
