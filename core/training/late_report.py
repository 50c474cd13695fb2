"""Reports a step to the log once the next one is queued, so that a GPU never waits for the log."""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from ..data.coco import CocoDetection
from ..distributed import ONE_PROCESS, Ranks
from .evaluations import Evaluation, FailedEvaluation
from .failures import non_finite_loss
from .log import RunLog, Step


class _Wait(NamedTuple):
    """A wait for data: its seconds, and on a GPU the time at which the next step began there."""

    seconds: float
    begun: torch.cuda.Event | None


class _Queued(NamedTuple):
    """A step whose loss terms and gradient norm, ``values``, are on their way from the device."""

    iteration: int
    names: tuple[str, ...]
    values: Tensor
    images: Tensor
    learning_rate: float
    at: float  # by time.perf_counter
    wait: _Wait
    before: torch.cuda.Event | None  # end of the step before, on a GPU
    arrived: torch.cuda.Event | None  # and of this one, with its values


class LateReport:
    """Reports a step once the next one was queued on the device, and checks that it is finite.

    Args:
        log: log of the run; None on ranks other than the main process.
        dataset: the training split, to name the images of a step that is not finite.
        device: device of the network.
        ranks: processes that train together; all see the same losses, each has its own images.
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
    def waiting_for_data(self) -> Iterator[None]:
        """Context whose time counts as a wait for the data of the next step."""
        start = time.perf_counter()
        yield
        self._wait = _Wait(time.perf_counter() - start, self._now())

    def step(
        self,
        iteration: int,
        terms: dict[str, Tensor],
        gradient_norm: Tensor,
        learning_rate: float,
        images: Tensor,
    ) -> None:
        """Reports the step before, and starts to copy the terms of this one to the host.

        Args:
            iteration: number of the step.
            terms: scalars, on the device.
            gradient_norm: a scalar, on the device.
            learning_rate: rate of the step.
            images: int64 [B], numbers of the step's images in the dataset, on the host.

        Raises:
            NonFiniteLoss: the loss or the gradient of the step before is not finite.
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
            images,
            learning_rate,
            time.perf_counter(),
            self._wait,
            self._last_arrived,
            arrived,
        )
        self._last_arrived = arrived

    def flush(self) -> None:
        """Reports the last step, unless it is reported already.

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
            images = list(chain.from_iterable(self._ranks.gather(step.images.tolist())))
            folder = None if self._log is None else self._log.folder
            raise non_finite_loss(step.iteration, terms, norm, images, self._dataset, folder)
        if self._log is not None:
            idle = _idle_seconds(step)
            self._log.step(Step(step.iteration, terms, step.learning_rate, norm, step.at, idle))

    def validation(self, iteration: int, terms: Mapping[str, float]) -> None:
        """Reports the steps so far, and the loss terms of a validation batch after the last."""
        self.flush()
        if self._log is not None:
            self._log.validation(iteration, terms)

    @contextlib.contextmanager
    def pausing(self) -> Iterator[None]:
        """Reports the steps so far; a context whose time is left out of the steps' speed."""
        self.flush()
        start = time.perf_counter()
        yield
        if self._log is not None:
            self._log.pause(time.perf_counter() - start)

    def evaluation(self, evaluation: Evaluation | FailedEvaluation | None) -> None:
        """Reports an evaluation at once; None on ranks that do not log."""
        if self._log is None or evaluation is None:
            return
        iteration, seconds = evaluation.iteration, evaluation.seconds
        if isinstance(evaluation, FailedEvaluation):
            self._log.failed_evaluation(iteration, evaluation.reason, seconds)
            return
        both = (evaluation.weights, evaluation.by_weights) if evaluation.weights else None
        self._log.evaluation(iteration, evaluation.metrics, evaluation.best, seconds, both)

    def _now(self) -> torch.cuda.Event | None:
        """Records an event after all work that a GPU has got until now; None for other devices."""
        if self._device.type != "cuda":
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


def _idle_seconds(step: _Queued) -> float:
    """Seconds that a device had nothing to do, because a step waited for its data."""
    if step.before is None or step.wait.begun is None:
        return step.wait.seconds
    return min(step.wait.seconds, step.before.elapsed_time(step.wait.begun) / 1000)
