"""The processes that train together, started by torchrun or by ``train.py --distributed``.

Every process is a rank, with a device of its own. What they tell one another goes through
torch.distributed: NCCL between GPUs, gloo between CPUs and for what is not on a device. A process
that is alone has no process group, and every function here gives its own values back.
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
# Seconds for a step. What takes longest in one is a chunk that one rank has more than another: a
# second on a GPU, minutes of a large network on a CPU.
_STEP_SECONDS = {"cuda": 45.0, "cpu": 300.0}


@dataclass(frozen=True)
class Ranks:
    """One of the processes that train together, and its ways to the others.

    What is called a collective here must be called by all ranks, in the same order. It raises
    RuntimeError if a rank is gone, or does not come to it in time; see :func:`join_ranks`.

    Attributes:
        rank: number of this process, from 0.
        world_size: number of processes.
        local_rank: number of this process on its machine, from 0.
        steps: the process group of the training steps, whose collectives wait no longer than
            ``system.dist_timeout``; None: the group of all else, which waits ten minutes. Patient
            collectives are those of that group.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    steps: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which logs and writes files for all."""
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
        """Every rank's value, by rank, on every rank; picklable. A patient collective."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: T) -> T:
        """Rank 0's value, on every rank; a patient collective.

        Args:
            value: picklable; tensors in its dictionaries, lists and tuples travel one by one, and
                have the same strides on every rank. On other ranks than 0 anything.
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
        """Waits until every rank is here. A patient collective."""
        self.gather(None)

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """Gives tensors rank 0's values, in place, in one message a type. A step's collective."""
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
        """Within it, what one rank finds wrong ends all of them, and is told once.

        A patient collective at its end.

        Raises:
            UserError: on rank 0, of the first rank that raised one; the others leave by SystemExit.
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
        """The network, such that a backward pass averages the ranks' gradients.

        It starts from rank 0's weights. Its buffers are each rank's own from then on. A step's
        collective.
        """
        if self.world_size == 1:
            return network
        options: dict[str, Any] = {"gradient_as_bucket_view": True, **keep_own_buffers()}
        return DistributedDataParallel(network, process_group=self.steps, **options)

    def with_step_group(
        self, seconds: float | None, device: torch.device, backend: str | None
    ) -> "Ranks":
        """These ranks with a process group for the steps. A patient collective.

        Args:
            seconds: how long a step's collective waits for other ranks; None: as long as is safe
                on such a device, and on a GPU a lost network ends all ranks within a minute.
            device: where this rank's network is.
            backend: of collectives on that device; by default NCCL on GPUs, gloo on CPUs.
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
    """Within it, backward passes of a parallel network add up gradients on their rank alone."""
    if isinstance(network, DistributedDataParallel):
        return network.no_sync()
    return contextlib.nullcontext()


def _text(error: Exception | None) -> str | None:
    return None if error is None else str(error)
