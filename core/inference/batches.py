"""Detection in many images: their requests go through the network together.

While a batch is in the network, threads lay out the next images and suppress the detections of the
last ones. On a GPU a batch is queued before the results of the last one are waited for, which is
the only wait.
"""

import os
import time
from collections import deque
from collections.abc import Generator, Hashable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ..data.images import Unreadable
from ..data.large_images import is_too_large, too_large_reason
from ..structures import NO_DETECTIONS, Detections
from .predict import Predict
from .requests import Inference, Request, like
from .saccade import SaccadeRound
from .timing import Clock, Timing

_AHEAD = 4  # batches of images that are under way at once
_AHEAD_BYTES = 2**28  # of images under way
_QUEUED = 2  # batches on the device: one runs, one waits for it
_LARGEST_BATCH = 32
_FREE = 0.6  # of a GPU's free memory that a batch may take
_THREADS = 4


class Infer(Protocol):
    """A function that finds the objects of one image."""

    def __call__(self, image: np.ndarray, trace: list[SaccadeRound] | None = None) -> Inference:
        """Finds the objects of an image uint8 [height, width, 3], BGR.

        Args:
            image: the image.
            trace: list to which CornerNet-Saccade appends its rounds; other detectors nothing.
        """
        ...


class Found(NamedTuple):
    """Result of one image.

    Attributes:
        image: the image, uint8 [h, w, 3]; none where it was not readable.
        detections: its detections; none where there is a problem.
        trace: the rounds of CornerNet-Saccade.
        problem: why the image was skipped, to go after the name of its file.
    """

    image: np.ndarray | None
    detections: Detections
    trace: list[SaccadeRound]
    problem: str | None = None


@dataclass
class _Job:
    """An image under way: how far it is, and at the end what was found or the error."""

    image: np.ndarray | None
    steps: Inference | None = None
    trace: list[SaccadeRound] = field(default_factory=list)
    request: Request | None = None
    detections: Detections | None = None
    problem: str | None = None
    error: Exception | None = None

    @property
    def done(self) -> bool:
        return not (self.detections is None and self.problem is None and self.error is None)

    def advance(self, found: Any) -> float:
        """Goes on until the next request or the end; runs in a thread.

        Args:
            found: what the network found in the last request; None before the first one.

        Returns:
            Seconds that it took.
        """
        assert self.steps is not None
        start = time.perf_counter()
        try:
            self.request = self.steps.send(found)
        except StopIteration as end:
            self.detections = end.value
        except Exception as error:
            self.fail(error)
        return time.perf_counter() - start

    def fail(self, error: Exception) -> None:
        """Ends the image with an error, or with the problem that it is too large."""
        self.request = None
        if self.image is not None and is_too_large(error):
            self.problem = too_large_reason(self.image)
        else:
            self.error = error

    def result(self) -> Found:
        """The result of an image that is done; raises its error if there was one."""
        if self.error is not None:
            raise self.error
        found = NO_DETECTIONS if self.detections is None else self.detections
        return Found(self.image, found, self.trace, self.problem)


class _Launched(NamedTuple):
    """A batch in the network: its images, and what is found in it once the clock can be read."""

    jobs: list[_Job]
    found: Any
    clock: Clock


class BatchedInference:
    """Detects in images, several at a time, and gives the results in the images' order.

    The results are those of one image at a time, up to the rounding of the network's sums.

    Args:
        infer: what finds the objects of one image.
        predict: the network with its weights.
        batch: images that go through the network together, if they are laid out in one size; 0:
            one on a CPU, on a GPU as many as fit its memory, at most 32.
        threaded: False: everything runs in the calling thread, for single images.

    Attributes:
        timing: seconds so far.
    """

    def __init__(
        self, infer: Infer, predict: Predict, batch: int = 0, threaded: bool = True
    ) -> None:
        self._infer, self._predict = infer, predict
        on_gpu = predict.device.type == "cuda"
        self._chooses = batch == 0 and on_gpu
        self._batch = max(1, batch)
        self._queued = _QUEUED if on_gpu else 1
        self._threads = min(_THREADS, os.cpu_count() or 1) if threaded else 0
        self.timing = Timing()

    def __call__(self, images: Iterable[np.ndarray | Unreadable]) -> Generator[Found, None, None]:
        """Finds the objects of images uint8 [h, w, 3], BGR; reads ahead of what it yields.

        An image that is too large for the memory is skipped, and its result says so. An error of
        the source or of the detector is raised where the result of its image would come.

        Yields:
            The result of each image, in their order.
        """
        pool = ThreadPoolExecutor(self._threads, "inference") if self._threads else None
        try:
            yield from self._results(_Pending(iter(images), pool))
        finally:
            if pool is not None:
                pool.shutdown(cancel_futures=True)

    def _results(self, pending: "_Pending") -> Iterator[Found]:
        start = time.perf_counter()
        while True:
            self._collect(pending)
            while pending.jobs and pending.jobs[0].done:
                self.timing.first_result = self.timing.first_result or time.perf_counter() - start
                yield pending.jobs.popleft().result()
            full = pending.longest_queue() >= self._batch
            if full and len(pending.launched) < self._queued:
                self._launch(pending, pending.pop_longest(self._batch))
            elif not full and pending.has_room(self._batch):
                self._take_in(pending)
            elif pending.launched:
                self._fetch(pending)
            elif pending.working:
                start = time.perf_counter()
                wait(pending.working, return_when=FIRST_COMPLETED)
                self.timing.waiting += time.perf_counter() - start
            elif pending.jobs:
                self._launch(pending, pending.pop_with(pending.jobs[0], self._batch))
            else:
                return

    def _take_in(self, pending: "_Pending") -> None:
        """Reads the next image and has it laid out."""
        start = time.perf_counter()
        job = pending.read()
        self.timing.waiting += time.perf_counter() - start
        if job is not None and not job.done:
            assert job.image is not None
            job.steps = self._infer(job.image, job.trace)
            pending.submit(job, None, "preparing")

    def _collect(self, pending: "_Pending") -> None:
        """Sorts images that threads are done with by their requests."""
        for future in [each for each in pending.working if each.done()]:
            job, stage = pending.working.pop(future)
            setattr(self.timing, stage, getattr(self.timing, stage) + future.result())
            pending.enqueue(job)

    def _launch(self, pending: "_Pending", jobs: list[_Job]) -> None:
        """Queues a batch on the device; on a CPU, computes it."""
        requests = [job.request for job in jobs]
        first = requests[0]
        assert first is not None
        device = self._predict.device
        clock = Clock(device)
        try:
            with torch.no_grad():
                before = _reset_peak(device) if self._chooses else 0
                images = first.batch(requests, device)
                clock.mark()
                outputs = self._predict.run(images, **first.options)
                clock.mark()
                found = self._predict.decode(outputs)
                clock.mark()
                found = _on_host(found)
                clock.mark()
                if self._chooses:
                    self._batch, self._chooses = _fitting_batch(device, before, len(jobs)), False
        except Exception as error:
            if is_too_large(error) and len(jobs) > 1:
                self._batch, self._chooses = len(jobs) // 2, False
                for job in jobs:
                    pending.enqueue(job)
                return
            for job in jobs:
                job.fail(error)
            return
        pending.launched.append(_Launched(jobs, found, clock))

    def _fetch(self, pending: "_Pending") -> None:
        """Waits for the oldest batch on the device, and has its images go on."""
        jobs, found, clock = pending.launched.popleft()
        start = time.perf_counter()
        try:
            _, network, decoding, _ = clock.read()
        except Exception as error:  # a GPU tells of its errors late
            for job in jobs:
                job.fail(error)
            return
        self.timing.waiting += time.perf_counter() - start
        self.timing.network += network
        self.timing.decoding += decoding
        requests = [job.request for job in jobs]
        assert requests[0] is not None
        for job, part in zip(jobs, requests[0].split(found, requests), strict=True):
            pending.submit(job, part, "suppressing")


class _Pending:
    """The images under way, and where each of them is.

    Args:
        images: the source.
        pool: threads; None: work is done when it is submitted.

    Attributes:
        jobs: images whose results have not been given yet, in order.
        working: those that a thread works at, and the stage of :class:`Timing` that this is.
        launched: batches in the network.
    """

    def __init__(
        self, images: Iterator[np.ndarray | Unreadable], pool: ThreadPoolExecutor | None
    ) -> None:
        self._images, self._pool = images, pool
        self._exhausted = False
        self._queues: dict[Hashable, deque[_Job]] = {}  # for the network, by the requests' keys
        self.jobs: deque[_Job] = deque()
        self.working: dict[Future[float], tuple[_Job, str]] = {}
        self.launched: deque[_Launched] = deque()

    def read(self) -> _Job | None:
        """Reads the next image from the source; None if there is none."""
        try:
            image = next(self._images)
        except StopIteration:
            self._exhausted = True
            return None
        except Exception as error:
            self._exhausted = True
            job = _Job(None, error=error)
        else:
            job = _Job(image) if isinstance(image, np.ndarray) else _Job(None, problem=image.reason)
        self.jobs.append(job)
        return job

    def has_room(self, batch: int) -> bool:
        """True if one more image may be read."""
        size = sum(job.image.nbytes for job in self.jobs if job.image is not None)
        within = len(self.jobs) < _AHEAD * batch and size < _AHEAD_BYTES
        return not self._exhausted and (within or not self.jobs)

    def submit(self, job: _Job, found: Any, stage: str) -> None:
        """Has a thread go on with an image."""
        job.request = None
        future: Future[float]
        if self._pool is not None:
            future = self._pool.submit(job.advance, found)
        else:
            future = Future()
            future.set_result(job.advance(found))
        self.working[future] = job, stage

    def enqueue(self, job: _Job) -> None:
        """Queues an image for the network, if it has a request."""
        if job.request is not None:
            self._queues.setdefault(job.request.key, deque()).append(job)

    def longest_queue(self) -> int:
        """Number of images of the longest queue for the network."""
        return max(map(len, self._queues.values()), default=0)

    def pop_longest(self, batch: int) -> list[_Job]:
        """Takes ``batch`` images of the longest queue, all of which go together."""
        return self._pop(max(self._queues, key=lambda key: len(self._queues[key])), batch)

    def pop_with(self, job: _Job, batch: int) -> list[_Job]:
        """Takes up to ``batch`` images of the queue of one of them."""
        assert job.request is not None
        return self._pop(job.request.key, batch)

    def _pop(self, key: Hashable, batch: int) -> list[_Job]:
        queue = self._queues.pop(key)
        jobs = [queue.popleft() for _ in range(min(batch, len(queue)))]
        if queue:
            self._queues[key] = queue
        return jobs


def _on_host(found: Any) -> Any:
    """Copies decoded results to the CPU; from a GPU the copies go on after this returns."""
    if isinstance(found, Tensor):
        return found.to("cpu", non_blocking=found.is_cuda)
    if isinstance(found, list):
        return [_on_host(part) for part in found]
    return like(found, (_on_host(part) for part in found))


def _reset_peak(device: torch.device) -> int:
    """Begins to watch the most bytes that a GPU needs; returns those that it needs now."""
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _fitting_batch(device: torch.device, before: int, images: int) -> int:
    """Chooses how many images go through a GPU together, from what the first ones needed.

    Args:
        device: the GPU.
        before: bytes that it needed before them.
        images: number of these images.
    """
    torch.cuda.synchronize(device)
    an_image = max(1, torch.cuda.max_memory_allocated(device) - before) / images
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(min(_LARGEST_BATCH, max(1, _FREE * free / an_image)))
