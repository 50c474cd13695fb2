"""Steps of training as CUDA graphs: a GPU does a whole step's work without waiting for the host.

A step of a small network is thousands of launches that take the host longer than the GPU. A graph
records them once, with the memory that they read and write, and launches them together. So every
step has to have the shapes of the one recorded: objects are padded to a few numbers, and there is a
graph for each of them and for each size of the images.
"""

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from ..config.errors import UserError
from ..distributed import Ranks
from ..models.detector import Detector
from ..structures import Batch
from ..torch_compat import end_recording
from .build import TrainingState
from .freezing import thaws_at
from .step import train_step

logger = logging.getLogger(__name__)

Result = tuple[dict[str, Tensor], Tensor]  # loss terms and norm, as of train_step
Step = Callable[[Batch, int], Result]

FIRST_STEPS = 2  # without a graph, for each size of the images: kernels are chosen in them
_LEAST_OBJECTS = 16  # that a batch is padded to; above, to the next power of 2
_MOST_GRAPHS = 16
_OBJECTS = {"boxes", "labels", "usable"}  # fields of a batch with a row an object


def choose_step(run: TrainingState) -> Step:
    """Chooses the function that computes a run's steps.

    Args:
        run: detector, optimizer, average and settings; its network is in training mode.

    Returns:
        ``step(batch, iteration)`` with the results of :func:`core.training.step.train_step`.

    Raises:
        UserError: as for :func:`uses_graphs`.
    """
    if uses_graphs(run):
        return StepGraphs(run, CudaGraphs()).step
    return partial(train_step, run)


def uses_graphs(run: TrainingState) -> bool:
    """True if a run's steps are CUDA graphs: where they can be, unless its config says otherwise.

    Raises:
        UserError: ``system.cuda_graph`` is true where there can be none.
    """
    obstacle = obstacle_to_graphs(run.detector, run.device, run.ranks)
    wanted = run.config.system.cuda_graph
    if wanted and obstacle is not None:
        raise UserError(f"system.cuda_graph: {obstacle}; set it to null, which takes what helps")
    return wanted is not False and obstacle is None


def obstacle_to_graphs(detector: Detector, device: torch.device, ranks: Ranks) -> str | None:
    """Says why steps cannot be CUDA graphs; None: they can."""
    if device.type != "cuda":
        return f"the device {device} has no CUDA graphs"
    if ranks.world_size > 1:
        return "several processes, which wait for one another in a step, have no CUDA graphs"
    if not detector.static_step:
        return "in a step of this model the GPU waits for the host, so it has no CUDA graphs"
    return None


class Recorder(Protocol):
    """Records what is launched on a device."""

    def rehearse(self, function: Callable[[], Result]) -> Result:
        """Computes a function as it will be recorded."""
        ...

    def record(self, function: Callable[[], Result]) -> tuple[Callable[[], Any], Result]:
        """Records a function without computing it.

        Returns:
            ``replay()``, which computes it, and its results, which a replay writes.
        """
        ...


class CudaGraphs:
    """The :class:`Recorder` of a GPU. Graphs share memory, as they are never replayed together."""

    def __init__(self) -> None:
        self._stream, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()

    def rehearse(self, function: Callable[[], Result]) -> Result:
        """Computes a function on the stream on which it will be recorded."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = function()
        current.wait_stream(self._stream)
        return result

    def record(self, function: Callable[[], Result]) -> tuple[Callable[[], Any], Result]:
        """Records a function; memory that PyTorch kept for later is given back before.

        A recording that fails leaves no trace: random numbers go on as if there had been none.
        """
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        generator = torch.cuda.default_generators[current.device_index]
        random_numbers = generator.clone_state()
        # Other threads, as that which pins batches, may use the GPU meanwhile.
        capture = torch.cuda.graph(
            graph, self._pool, self._stream, capture_error_mode="thread_local"
        )
        try:
            with capture:
                result = function()
        except BaseException:  # PyTorch leaves all of this as it was in the recording
            torch.cuda.set_stream(current)
            generator.graphsafe_set_state(random_numbers)
            end_recording(current.device_index, self._pool)
            self._pool = torch.cuda.graph_pool_handle()
            raise
        return graph.replay, result


@dataclass(frozen=True)
class _Recorded:
    """A recorded step: the batch that it reads, ``replay()``, and the results that this writes."""

    batch: Batch
    replay: Callable[[], Any]
    result: Result


class StepGraphs:
    """Computes steps by graphs.

    Losses and weights are those of :func:`core.training.step.train_step` with objects padded to the
    same number. If a step cannot be recorded, a warning says so, and no other is.

    Args:
        run: as for :func:`choose_step`.
        recorder: records steps.
    """

    def __init__(self, run: TrainingState, recorder: Recorder) -> None:
        self._run, self._recorder = run, recorder
        self._graphs: dict[Hashable, _Recorded] = {}
        self._rehearsed: dict[Hashable, int] = {}  # steps by the images' shape
        self._failed = False

    def step(self, batch: Batch, iteration: int) -> Result:
        """Makes one update of the weights, and of their average if there is one, in place.

        Args:
            batch: the step's batch.
            iteration: number of the step, from 1.

        Returns:
            Loss terms and gradient norm; the next step writes new values into the same memory.
        """
        run = self._run
        if thaws_at(iteration, run.config.system):  # other gradients are computed from now on
            self._graphs.clear()
            self._rehearsed.clear()
        batch = pad_objects(batch.to(run.device), padded_objects(batch.labels.shape[1]))
        result = self._compute(batch, iteration)
        if run.average is not None:
            run.average.update_()
        return result

    def _compute(self, batch: Batch, iteration: int) -> Result:
        """Computes a step without the average, whose decay changes from step to step."""
        key, shape = _key(batch), batch.images.shape
        rehearsed = self._rehearsed.get(shape, 0)
        full = key not in self._graphs and len(self._graphs) >= _MOST_GRAPHS
        if self._failed or full:
            return self._train(batch, iteration)
        if rehearsed < FIRST_STEPS:
            self._rehearsed[shape] = rehearsed + 1
            return self._recorder.rehearse(lambda: self._train(batch, iteration))
        if key not in self._graphs:
            try:
                self._graphs[key] = self._record(batch, iteration)
            except RuntimeError as error:  # of memory, too
                # What became of the recording hides what it could not record.
                reason = " ".join(str(error.__context__ or error).split("\n")[0].split())
                logger.warning(
                    "system.cuda_graph: training goes on without it, as recording failed: %s",
                    reason,
                )
                self._failed = True
                self._graphs.clear()
        if self._failed:  # now that no traceback keeps the tensors of the step that was recorded
            return self._train(batch, iteration)
        recorded = self._graphs[key]
        _copy_(recorded.batch, batch)
        recorded.replay()
        return recorded.result

    def _record(self, batch: Batch, iteration: int) -> _Recorded:
        self._run.optimizer.zero_grad(set_to_none=True)  # their memory is given back
        own = replace(batch, **{name: value.clone() for name, value in _tensors(batch).items()})
        replay, result = self._recorder.record(lambda: self._train(own, iteration))
        return _Recorded(own, replay, result)

    def _train(self, batch: Batch, iteration: int) -> Result:
        return train_step(replace(self._run, average=None), batch, iteration)


def padded_objects(objects: int) -> int:
    """Number of objects that a batch is padded to: 16, 32, 64, …"""
    return max(_LEAST_OBJECTS, 1 << (objects - 1).bit_length())


def pad_objects(batch: Batch, objects: int) -> Batch:
    """Pads the rows of the objects with zeros, so that there are ``objects`` of them."""
    padded = {}
    for name in _OBJECTS:
        value = getattr(batch, name)
        if value is not None:
            rows = value.new_zeros((len(batch), objects, *value.shape[2:]))
            rows[:, : value.shape[1]] = value
            padded[name] = rows
    return replace(batch, **padded)


def _tensors(batch: Batch) -> dict[str, Tensor]:
    """The fields of a batch that a step reads, by their names."""
    read = {field.name: getattr(batch, field.name) for field in fields(batch)}
    del read["unreadable"], read["index"]  # which are for the log
    return {name: value for name, value in read.items() if value is not None}


def _key(batch: Batch) -> Hashable:
    return tuple((name, value.shape) for name, value in _tensors(batch).items())


def _copy_(to: Batch, batch: Batch) -> None:
    own = _tensors(to)
    for name, value in _tensors(batch).items():
        own[name].copy_(value)
