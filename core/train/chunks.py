"""Who computes what of a step: the config's chunks, shared out to the ranks.

A step is defined by its chunks, so it is the same however many ranks compute it. Each takes a run
of them, one after the other.
"""

from dataclasses import dataclass
from itertools import accumulate

from ..config.errors import UserError
from ..config.loading import System
from ..distributed.ranks import Ranks


@dataclass(frozen=True)
class RankChunks:
    """What one rank computes of every step.

    Attributes:
        sizes: pictures of each of its chunks.
        first: number of its first chunk in the step, from 0.
        total: number of chunks of the step, of all ranks.
        rows: its pictures in the step's batch.
    """

    sizes: tuple[int, ...]
    first: int
    total: int
    rows: slice

    @property
    def last(self) -> int:
        """Number of its last chunk in the step."""
        return self.first + len(self.sizes) - 1


def rank_chunks(system: System, ranks: Ranks) -> RankChunks:
    """The share of one rank; the ranks' numbers of chunks differ by one at most.

    Args:
        system: its ``chunk_sizes`` are the chunks. Without them, the batch is one chunk a rank.
        ranks: the rank.

    Raises:
        UserError: there are more ranks than chunks, or the batch cannot be split evenly.
    """
    sizes = chunk_sizes(system, ranks.world_size)
    counts = chunk_counts(system, ranks.world_size)
    first = sum(counts[: ranks.rank])
    ends = [0, *accumulate(sizes)]
    last = first + counts[ranks.rank]
    return RankChunks(sizes[first:last], first, len(sizes), slice(ends[first], ends[last]))


def chunk_counts(system: System, world_size: int) -> list[int]:
    """How many chunks each of ``world_size`` ranks computes; errors as :func:`rank_chunks`."""
    chunks = len(chunk_sizes(system, world_size))
    if chunks < world_size:
        raise UserError(
            f"{world_size} processes cannot share the {chunks} chunks of system.chunk_sizes "
            f"{list(system.chunk_sizes or ())}: start {chunks} or fewer, or cut the batch into more"
        )
    return [chunks // world_size + (rank < chunks % world_size) for rank in range(world_size)]


def chunk_sizes(system: System, world_size: int) -> tuple[int, ...]:
    """Pictures of every chunk of a step of ``world_size`` ranks; errors as :func:`rank_chunks`."""
    if system.chunk_sizes is not None:
        return system.chunk_sizes
    each, left = divmod(system.batch_size, world_size)
    if left:
        fitting = [str(size) for size in (each * world_size, (each + 1) * world_size) if size]
        raise UserError(
            f"system.batch_size {system.batch_size} cannot be split evenly over {world_size} "
            f"processes; {' or '.join(fitting)} can, or set system.chunk_sizes"
        )
    return (each,) * world_size
