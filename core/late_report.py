"""Loss terms that reach the log one step late, so that a GPU never waits for it."""

import math
from collections.abc import Mapping
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from core.batch import Batch
from core.dbs.coco import CocoDetection
from core.distributed import ALONE, Ranks
from core.guards import non_finite_loss
from core.log import RunLog


class _Step(NamedTuple):
    """A step whose loss terms are on their way from the device; ``arrived`` tells on a GPU."""

    iteration: int
    names: tuple[str, ...]
    values: Tensor
    arrived: torch.cuda.Event | None
    pictures: list[int]
    learning_rate: float


class LateReport:
    """Reports a step once the next one was queued on the device, and sees that its loss is finite.

    Args:
        log: gets the steps; None: another rank reports them.
        database: the training split, to name the pictures of a loss that is no number.
        ranks: those that train together; all see the same losses, each has its own pictures.
    """

    def __init__(self, log: RunLog | None, database: CocoDetection, ranks: Ranks = ALONE) -> None:
        self._log, self._database, self._ranks = log, database, ranks
        self._queued: _Step | None = None

    def step(
        self, iteration: int, terms: dict[str, Tensor], batch: Batch, learning_rate: float
    ) -> None:
        """Reports the step before, and starts to copy the terms of this one to the host.

        Args:
            iteration: number of the step.
            terms: scalars, on its device.
            batch: as the loader gave it, on the host.
            learning_rate: of the step.

        Raises:
            NonFiniteLoss: by the step before.
        """
        self.flush()
        values, arrived = torch.stack(list(terms.values())), None
        if values.is_cuda:
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            values, arrived = host.copy_(values, non_blocking=True), torch.cuda.Event()
            arrived.record()
        pictures = batch.index.tolist()
        self._queued = _Step(iteration, tuple(terms), values, arrived, pictures, learning_rate)

    def flush(self) -> None:
        """Reports the last step, unless that was done.

        Raises:
            NonFiniteLoss: its loss is infinite or not a number.
        """
        step, self._queued = self._queued, None
        if step is None:
            return
        if step.arrived is not None:
            step.arrived.synchronize()
        terms = dict(zip(step.names, step.values.tolist(), strict=True))
        if not all(map(math.isfinite, terms.values())):
            pictures = list(chain.from_iterable(self._ranks.gather(step.pictures)))
            folder = None if self._log is None else self._log.folder
            raise non_finite_loss(step.iteration, terms, pictures, self._database, folder)
        if self._log is not None:
            self._log.step(step.iteration, terms, step.learning_rate)

    def validation(self, iteration: int, terms: Mapping[str, float]) -> None:
        """Reports the loss terms of a validation batch after step ``iteration``, at once."""
        if self._log is not None:
            self._log.validation(iteration, terms)
