"""How long the stages of detection take, on a CPU or a GPU."""

import time
from dataclasses import dataclass, fields
from typing import Any

import torch


@dataclass
class Timing:
    """Seconds that detection took, by stage.

    Stages of different images run at the same time, so the sum can exceed the time that passed.

    Attributes:
        preparing: laying out images, in threads.
        network: in the network.
        decoding: finding peaks and pairs.
        suppressing: soft-NMS and conversion to the image, in threads.
        waiting: for images to be read, for threads, and for a device.
        first_result: no stage, but the time until the first result, with the start of workers.
    """

    preparing: float = 0
    network: float = 0
    decoding: float = 0
    suppressing: float = 0
    waiting: float = 0
    first_result: float = 0

    def rounded(self) -> dict[str, float]:
        """The seconds by stage, to the millisecond."""
        return {each.name: round(getattr(self, each.name), 3) for each in fields(self)}


class Clock:
    """Marks points in time in a device's work, without a wait."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks: list[Any] = []
        self.mark()

    def mark(self) -> None:
        """Marks what was given to the device so far."""
        if self._on_gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def read(self) -> list[float]:
        """Waits for the last mark; returns the seconds from each mark to the next one."""
        pairs = zip(self._marks, self._marks[1:], strict=False)
        if not self._on_gpu:
            return [after - before for before, after in pairs]
        self._marks[-1].synchronize()
        return [before.elapsed_time(after) / 1000 for before, after in pairs]
