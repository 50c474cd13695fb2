"""Memory use of this process."""

import contextlib
import os
from pathlib import Path

import torch

_STATISTICS = Path("/proc/self/statm")  # in pages: size, resident size, …
_STATUS = Path("/proc/self/status")  # by name, in kB
_FORGET_PEAK = Path("/proc/self/clear_refs"), "5"  # file, and what to write into it


def memory_use() -> dict[str, int]:
    """Reads the memory in use, in bytes by kind; leaves out kinds that the system does not report.

    Returns:
        ``resident``: main memory of this process now, including memory that its loader workers use
        too; ``cuda_peak``: the most memory that tensors took at a time on any CUDA device.
    """
    use = {}
    if _STATISTICS.is_file():
        use["resident"] = int(_STATISTICS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if torch.cuda.is_initialized():
        devices = range(torch.cuda.device_count())
        use["cuda_peak"] = max(torch.cuda.max_memory_allocated(device) for device in devices)
    return use


class Peak:
    """Measures the peak of the memory in use; a context manager.

    Args:
        device: a CUDA device, whose tensors are counted; or a CPU, where the main memory of this
            process is counted.

    Attributes:
        bytes: the peak, set when the context ends; None where the system does not report it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.bytes: int | None = None

    def __enter__(self) -> "Peak":
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            with contextlib.suppress(OSError):  # then the peak is that since the process started
                _FORGET_PEAK[0].write_text(_FORGET_PEAK[1])
        return self

    def __exit__(self, *error: object) -> None:
        if self._device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self._device)
        elif self._device.type == "cpu" and _STATUS.is_file():
            fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
            self.bytes = int(fields["VmHWM"].split()[0]) * 1024
