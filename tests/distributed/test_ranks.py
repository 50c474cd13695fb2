"""Ranks: their numbers, their collectives, and how a mistake of one ends all of them."""

import logging
import pickle
import time

import pytest
import torch

from core.config.errors import UserError
from core.distributed import Signals, Stream
from tests.support.engine_stand_in import StandInImages, make_batch
from tests.support.some_ranks import run_ranks

CPU = torch.device("cpu")


def collectives(ranks):
    steps = ranks.with_step_group(20, CPU, None)
    own = [torch.full((2,), float(ranks.rank)), torch.tensor(ranks.rank), torch.ones(1, 2)]
    own[2] *= ranks.rank + 5
    steps.broadcast_(own)
    ranks.barrier()
    return {
        "who": (ranks.rank, ranks.world_size, ranks.local_rank, ranks.is_main),
        "sum": steps.sum([1, ranks.rank, 2**40]),
        "sum_": steps.sum_(torch.tensor([1.5, ranks.rank])).tolist(),
        "gather": ranks.gather({"rank": ranks.rank}),
        "broadcast": [tensor.tolist() for tensor in own],
        "level": logging.getLogger().level,
    }


@pytest.mark.parametrize("world_size", [2, 3])
def test_collectives(world_size, caplog):
    caplog.set_level(logging.INFO)
    for rank, result in enumerate(run_ranks(world_size, collectives)):
        assert result["who"] == (rank, world_size, rank, rank == 0)
        assert result["sum"] == [world_size, sum(range(world_size)), world_size * 2**40]
        assert result["sum_"] == [1.5 * world_size, sum(range(world_size))]
        assert result["gather"] == [{"rank": other} for other in range(world_size)]
        assert result["broadcast"] == [[0.0, 0.0], 0, [[5.0, 5.0]]]
        assert result["level"] == (logging.WARNING if rank else logging.INFO)


def broadcast_state(ranks):
    """Broadcasts a nested value; returns parts of it, and the most bytes that went by pickle."""
    sent, broadcast = [], torch.distributed.broadcast_object_list

    def measured(values, **more):
        sent.append(len(pickle.dumps(values)))
        broadcast(values, **more)

    torch.distributed.broadcast_object_list = measured
    wide = torch.arange(80_000.0).view(2, 4, 100, 100).to(memory_format=torch.channels_last)
    state = {"moments": [wide, torch.tensor(7)], "rate": 0.5, "none": (torch.empty(0), None)}
    state["rows"] = wide.double()[:, :, ::2]  # of memory that it does not fill
    found = ranks.broadcast(state if ranks.is_main else None)
    assert all(map(torch.equal, found["moments"], state["moments"]))
    assert torch.equal(found["rows"], state["rows"])
    strides = found["moments"][0].stride()
    return found["rate"], found["none"][0].shape, found["none"][1], strides, max(sent)


def test_broadcast_tensors_travel_one_by_one():
    """And in the layout that they have: an optimiser's moments are laid out as its weights."""
    for rate, shape, none, strides, sent in run_ranks(2, broadcast_state):
        assert (rate, shape, none, strides) == (0.5, (0,), None, (40_000, 1, 400, 4))
        assert sent < 10_000


def one_mistake(ranks, guilty):
    try:
        with ranks.agree_on_errors():
            if ranks.rank in guilty:
                raise UserError(f"mistake of {ranks.rank}")
    except UserError as error:
        return str(error)
    except SystemExit as end:
        return end.code
    return None


@pytest.mark.parametrize(
    ("guilty", "ends"),
    [((), [None, None]), ((0, 1), ["mistake of 0", 2]), ((1,), ["rank 1: mistake of 1", 2])],
)
def test_a_mistake_ends_all_ranks_with_one_message(guilty, ends):
    assert run_ranks(2, one_mistake, guilty) == ends


def late(ranks):
    steps = ranks.with_step_group(0.5, CPU, None)
    if not ranks.is_main:
        time.sleep(4)
        return True
    begin = time.monotonic()
    with pytest.raises(RuntimeError, match=r"gloo|Gloo"):
        steps.sum([1])
    return time.monotonic() - begin < 3


def test_a_rank_that_does_not_come_is_not_waited_for_long():
    assert run_ranks(2, late, seconds=20) == [True, True]


def slow_to_start(ranks):
    steps = ranks.with_step_group(2, CPU, None)

    def batches():
        time.sleep(0 if ranks.is_main else 4)  # its loader starts up
        yield make_batch(0)
        time.sleep(0 if ranks.is_main else 4)
        yield make_batch(1)

    with Signals() as signals:
        stream = Stream(batches(), StandInImages(), signals, steps)
        first = len(stream.take().images)
        if ranks.is_main:
            with pytest.raises(RuntimeError, match=r"gloo|Gloo"):
                stream.take()
    return first


def test_loaders_have_the_time_to_start_up():
    """And no more than a step's for the batches after the first."""
    assert run_ranks(2, slow_to_start, seconds=30) == [4, 4]
