"""Assignment of a step's chunks to the ranks.

A step is defined by its chunks, so it is the same however many ranks compute it. Each rank takes
consecutive chunks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from ..config.errors import UserError
from ..config.schema import System
from ..distributed import Ranks
from ..structures import Batch


@dataclass(frozen=True)
class RankChunks:
    """One rank's chunks of every step.

    Attributes:
        sizes: number of images in each of the rank's chunks.
        first: number of the rank's first chunk in the step, from 0.
        total: number of chunks in the step, of all ranks.
        rows: rows of the rank's images in the step's batch.
    """

    sizes: tuple[int, ...]
    first: int
    total: int
    rows: slice

    @property
    def last(self) -> int:
        """Number of the rank's last chunk in the step."""
        return self.first + len(self.sizes) - 1

    def split(self, batch: Batch) -> Iterator[tuple[int, Batch]]:
        """Cuts this rank's rows of a batch into its chunks; yields each with its number."""
        end = 0
        for number, size in enumerate(self.sizes, self.first):
            end += size
            yield number, batch[end - size : end]


def rank_chunks(system: System, ranks: Ranks) -> RankChunks:
    """Assigns chunks to a rank; the ranks' numbers of chunks differ by one at most.

    Args:
        system: settings with ``chunk_sizes``; without them, the batch is one chunk a rank.
        ranks: this process among those that train together.

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
    """Number of chunks of each of ``world_size`` ranks; errors as :func:`rank_chunks`."""
    chunks = len(chunk_sizes(system, world_size))
    if chunks < world_size:
        raise UserError(
            f"{world_size} processes are more than the {chunks} chunks of system.chunk_sizes "
            f"{list(system.chunk_sizes or ())}: start {chunks} or fewer, or cut the batch into more"
        )
    return [chunks // world_size + (rank < chunks % world_size) for rank in range(world_size)]


def chunk_sizes(system: System, world_size: int) -> tuple[int, ...]:
    """Images of every chunk of a step of ``world_size`` ranks; errors as :func:`rank_chunks`."""
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
