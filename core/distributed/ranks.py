"""The processes that train together, started by torchrun or by ``train.py --distributed``.

Every process is a rank, with a device of its own. They exchange values by torch.distributed: NCCL
between GPUs, gloo between CPUs and for what is not on a device. A single process has no process
group, and every function here returns its own values.
"""

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..config.errors import UserError
from ..torch_compat import keep_own_buffers, map_tensors, tensors_in

logger = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE = timedelta(minutes=10)  # for ranks that start up or evaluate
# Seconds for a step. Ranks wait longest in it where one has a chunk more than another: a second on
# a GPU, minutes of a large network on a CPU.
_STEP_SECONDS = {"cuda": 45.0, "cpu": 300.0}


@dataclass(frozen=True)
class Ranks:
    """One of the processes that train together, and its collectives with the others.

    A collective must be called by all ranks, in the same order. It raises RuntimeError if a rank
    has ended or does not call it in time; :func:`core.distributed.join_ranks` logs that in a line.

    Attributes:
        rank: number of this process, from 0.
        world_size: number of processes.
        local_rank: number of this process on its machine, from 0.
        steps: the process group of the training steps, whose collectives wait no longer than
            ``system.dist_timeout``. None: the default group, which waits ten minutes. Patient
            collectives always use the default group.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    steps: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """True in the main process, rank 0, which logs and writes files for all."""
        return self.rank == 0

    def sum(self, numbers: Sequence[int]) -> list[int]:
        """Adds up the ranks' numbers one by one; every rank has the result. A step's collective."""
        if self.world_size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(total, group=self.steps)
        return [int(number) for number in total]

    def sum_(self, tensor: Tensor) -> Tensor:
        """Adds the ranks' tensors up in place, on their device. A step's collective."""
        if self.world_size > 1:
            dist.all_reduce(tensor, group=self.steps)
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """Collects every rank's value, by rank, on every rank. A patient collective.

        Args:
            value: picklable.
        """
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: T) -> T:
        """Returns rank 0's value, on every rank. A patient collective.

        Args:
            value: picklable; tensors in its dictionaries, lists and tuples are sent one by one, and
                have the same strides on every rank. Ignored on ranks other than 0.
        """
        if self.world_size == 1:
            return value
        outlines = [map_tensors(lambda t: t.to("meta"), value) if self.is_main else None]
        dist.broadcast_object_list(outlines, src=0)
        if not self.is_main:
            value = map_tensors(lambda t: torch.empty_like(t, device="cpu"), outlines[0])
        for tensor in tensors_in(value):
            if tensor.numel():
                dense = tensor.detach().clone() if self.is_main else tensor
                dist.broadcast(dense.as_strided((dense.numel(),), (1,)), src=0)
        return value

    def barrier(self) -> None:
        """Waits until every rank has called this. A patient collective."""
        self.gather(None)

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """Fills tensors with rank 0's values, in one message a type. A step's collective."""
        if self.world_size == 1:
            return
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_type.setdefault(tensor.dtype, []).append(tensor)
        for same in by_type.values():
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in same])
            dist.broadcast(flat, src=0, group=self.steps)
            parts = flat.split([tensor.numel() for tensor in same])
            for tensor, part in zip(same, parts, strict=True):
                tensor.detach().copy_(part.view_as(tensor))

    @contextlib.contextmanager
    def agree_on_errors(self) -> Iterator[None]:
        """Context in which a UserError of one rank ends all of them, with one message.

        A patient collective at its end.

        Raises:
            UserError: on rank 0, that of the lowest rank.
            SystemExit: on the other ranks.
        """
        problem = None
        try:
            yield
        except UserError as error:
            problem = error
        problems = [(rank, text) for rank, text in enumerate(self.gather(_text(problem))) if text]
        if not problems:
            return
        rank, text = problems[0]
        if not self.is_main:
            raise SystemExit(2)
        if problem is not None:
            raise problem
        raise UserError(f"rank {rank}: {text}")

    def parallel(self, network: nn.Module) -> nn.Module:
        """Wraps a network so that a backward pass averages the ranks' gradients.

        It starts with rank 0's weights; buffers are each rank's own. A step's collective.
        """
        if self.world_size == 1:
            return network
        options: dict[str, Any] = {"gradient_as_bucket_view": True, **keep_own_buffers()}
        return DistributedDataParallel(network, process_group=self.steps, **options)

    def with_step_group(
        self, seconds: float | None, device: torch.device, backend: str | None
    ) -> "Ranks":
        """Returns these ranks with a process group for the steps. A patient collective.

        Args:
            seconds: time that a step's collective waits for other ranks; None: as long as is safe
                on such a device, and on a GPU a lost network ends all ranks within a minute.
            device: device of this rank's network.
            backend: backend of collectives on that device; by default NCCL on GPUs, gloo on CPUs.
        """
        if self.world_size == 1:
            return self
        if device.type == "cuda":
            torch.cuda.set_device(device)  # NCCL would take GPU 0 on every rank
        chosen = backend or ("nccl" if device.type == "cuda" else "gloo")
        backends = f"cpu:gloo,{device.type}:{chosen}" if device.type != "cpu" else "gloo"
        if seconds is None:
            seconds = _STEP_SECONDS.get(device.type, _STEP_SECONDS["cpu"])
        group = dist.new_group(backend=backends, timeout=timedelta(seconds=seconds))
        assert isinstance(group, dist.ProcessGroup)
        return replace(self, steps=group)


ONE_PROCESS = Ranks()


def no_gradient_sync(network: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Context in which backward passes of a parallel network add up gradients on their own rank."""
    if isinstance(network, DistributedDataParallel):
        return network.no_sync()
    return contextlib.nullcontext()


def _text(error: Exception | None) -> str | None:
    return None if error is None else str(error)
