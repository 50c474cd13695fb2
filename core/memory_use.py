"""How much memory this process holds."""

import os
from pathlib import Path

import torch

_STATISTICS = Path("/proc/self/statm")  # in pages: size, resident size, …


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
