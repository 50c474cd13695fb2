"""What is told of a step reaches the log one step late, so that a GPU never waits for it."""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from ..data.coco import CocoDetection
from ..distributed.ranks import ONE_PROCESS, Ranks
from ..evaluation.while_training import Evaluation
from ..structures import Batch
from .guards import non_finite_loss
from .log import RunLog, Step


class _Wait(NamedTuple):
    """A wait for data: its seconds, and on a GPU what tells when the step after it began there."""

    seconds: float
    begun: torch.cuda.Event | None


class _Queued(NamedTuple):
    """A step whose loss terms and gradient norm, ``values``, are on their way from the device."""

    iteration: int
    names: tuple[str, ...]
    values: Tensor
    pictures: list[int]
    learning_rate: float
    at: float  # time.perf_counter
    wait: _Wait
    before: torch.cuda.Event | None  # end of the step before, on a GPU
    arrived: torch.cuda.Event | None  # and of this one, with its values


class LateReport:
    """Reports a step once the next one was queued on the device, and sees that it is finite.

    Args:
        log: gets the steps; None: another rank reports them.
        dataset: the training split, to name the pictures of a step that is not finite.
        device: of the network.
        ranks: those that train together; all see the same losses, each has its own pictures.
    """

    def __init__(
        self,
        log: RunLog | None,
        dataset: CocoDetection,
        device: torch.device,
        ranks: Ranks = ONE_PROCESS,
    ) -> None:
        self._log, self._dataset, self._device, self._ranks = log, dataset, device, ranks
        self._queued: _Queued | None = None
        self._wait = _Wait(0.0, None)
        self._last_arrived: torch.cuda.Event | None = None

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Within it, this process waits for the data of the next step."""
        start = time.perf_counter()
        yield
        self._wait = _Wait(time.perf_counter() - start, self._now())

    def step(
        self,
        iteration: int,
        terms: dict[str, Tensor],
        gradient_norm: Tensor,
        batch: Batch,
        learning_rate: float,
    ) -> None:
        """Reports the step before, and starts to copy the terms of this one to the host.

        Args:
            iteration: number of the step.
            terms: scalars, on the device.
            gradient_norm: a scalar, on the device.
            batch: as the loader gave it, on the host.
            learning_rate: of the step.

        Raises:
            NonFiniteLoss: by the step before.
        """
        self.flush()
        values = torch.stack([*terms.values(), gradient_norm.to(next(iter(terms.values())))])
        if values.is_cuda:
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            values = host.copy_(values, non_blocking=True)
        arrived = self._now()
        self._queued = _Queued(
            iteration,
            tuple(terms),
            values,
            batch.index.tolist(),
            learning_rate,
            time.perf_counter(),
            self._wait,
            self._last_arrived,
            arrived,
        )
        self._last_arrived = arrived

    def flush(self) -> None:
        """Reports the last step, unless that was done.

        Raises:
            NonFiniteLoss: its loss or its gradient is infinite or not a number.
        """
        step, self._queued = self._queued, None
        if step is None:
            return
        if step.arrived is not None:
            step.arrived.synchronize()
        *losses, norm = step.values.tolist()
        terms = dict(zip(step.names, losses, strict=True))
        if not all(map(math.isfinite, step.values.tolist())):
            pictures = list(chain.from_iterable(self._ranks.gather(step.pictures)))
            folder = None if self._log is None else self._log.folder
            raise non_finite_loss(step.iteration, terms, norm, pictures, self._dataset, folder)
        if self._log is not None:
            waited = _unhidden(step)
            report = Step(step.iteration, terms, step.learning_rate, norm, step.at, waited)
            self._log.step(report)

    def validation(self, iteration: int, terms: Mapping[str, float]) -> None:
        """Reports the loss terms of a validation batch after step ``iteration``, at once."""
        if self._log is not None:
            self._log.validation(iteration, terms)

    def evaluation(self, iteration: int, evaluation: Evaluation | None) -> None:
        """Reports an evaluation after step ``iteration``, at once, if there is one."""
        if self._log is not None and evaluation is not None:
            self._log.evaluation(iteration, evaluation.figures, evaluation.best, evaluation.seconds)

    @contextlib.contextmanager
    def pausing(self) -> Iterator[None]:
        """Within it, what happens is no part of any step: its time slows none down."""
        start = time.perf_counter()
        yield
        if self._log is not None:
            self._log.pause(time.perf_counter() - start)

    def _now(self) -> torch.cuda.Event | None:
        """What tells when a GPU has done all that it was given until now; None for others."""
        if self._device.type != "cuda":
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


def _unhidden(step: _Queued) -> float:
    """Seconds that a device had nothing to do, because the data of a step was waited for."""
    if step.before is None or step.wait.begun is None:
        return step.wait.seconds
    return min(step.wait.seconds, step.before.elapsed_time(step.wait.begun) / 1000)
