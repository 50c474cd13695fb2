"""Assignment of chunks to ranks, and steps that cannot be divided."""

import dataclasses
import itertools

import pytest

from core.config.errors import UserError
from core.distributed import Ranks
from core.training.chunks import chunk_counts, rank_chunks
from tests.support.engine_stand_in import system

PUBLISHED = (4, 5, 5, 5, 5, 5, 5, 5, 5, 5)


@pytest.mark.parametrize("world_size", range(1, 11))
def test_every_chunk_is_computed_once_and_in_order(world_size):
    settings = system(batch_size=49, chunk_sizes=PUBLISHED)
    shares = [rank_chunks(settings, Ranks(rank, world_size)) for rank in range(world_size)]
    assert sum((share.sizes for share in shares), ()) == PUBLISHED
    counts = [len(share.sizes) for share in shares]
    assert max(counts) - min(counts) <= 1 and counts == chunk_counts(settings, world_size)
    rows = [range(49)[share.rows] for share in shares]
    assert [*itertools.chain(*rows)] == [*range(49)]
    for share, own in zip(shares, rows, strict=True):
        assert len(own) == sum(share.sizes) and share.total == 10
        assert share.last - share.first + 1 == len(share.sizes)


def test_without_chunks_the_batch_is_one_a_rank():
    settings = system(batch_size=6)
    assert rank_chunks(settings, Ranks()).sizes == (6,)
    share = rank_chunks(settings, Ranks(2, 3))
    assert (share.sizes, share.first, share.total, share.rows) == ((2,), 2, 3, slice(4, 6))


@pytest.mark.parametrize(
    ("settings", "world_size", "message"),
    [
        (
            {"batch_size": 5, "chunk_sizes": (2, 3)},
            3,
            r"3 processes .* 2 chunks .*: start 2",
        ),
        ({"batch_size": 5}, 2, "batch_size 5 cannot be split evenly over 2 processes; 4 or 6 can"),
        ({"batch_size": 2}, 4, "over 4 processes; 4 can, or set system.chunk_sizes"),
    ],
)
def test_what_cannot_be_shared_names_what_fits(settings, world_size, message):
    settings = dataclasses.replace(system(), **settings)
    with pytest.raises(UserError, match=message):
        rank_chunks(settings, Ranks(0, world_size))
