"""Ranks: who they are, what they tell each other, and how they end alike."""

import logging
import pickle
import re
import time

import pytest
import torch

from core.config.errors import UserError
from core.distributed import join as joining
from core.distributed.agreement import Stream
from core.distributed.join import join_ranks
from core.distributed.ranks import ONE_PROCESS
from core.distributed.signals import Signals
from core.evaluation.shares import ImageError
from tests.support.engine_stand_in import StandInPictures, make_batch
from tests.support.some_ranks import run_processes, run_ranks

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
        "copied": [tensor.tolist() for tensor in own],
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
        assert result["copied"] == [[0.0, 0.0], 0, [[5.0, 5.0]]]
        assert result["level"] == (logging.WARNING if rank else logging.INFO)


def told_by_first(ranks):
    """What rank 0 had and every rank has; and the most bytes that went by pickle."""
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


def test_tensors_of_the_first_rank_travel_one_by_one():
    """And in the layout that they have: an optimiser's moments are laid out as its weights."""
    for rate, shape, none, strides, sent in run_ranks(2, told_by_first):
        assert (rate, shape, none, strides) == (0.5, (0,), None, (40_000, 1, 400, 4))
        assert sent < 10_000


def test_a_process_that_is_alone_has_no_process_group():
    with join_ranks() as ranks:
        assert ranks is ONE_PROCESS and ranks.is_main
    assert not torch.distributed.is_initialized()
    tensor = torch.ones(2)
    assert ranks.with_step_group(1, CPU, None) is ONE_PROCESS
    assert ranks.sum([3]) == [3] and ranks.gather("a") == ["a"]
    assert ranks.sum_(tensor) is tensor
    ranks.broadcast_([tensor])
    ranks.barrier()
    assert tensor.tolist() == [1, 1]
    with pytest.raises(UserError, match="mine"), ranks.agree_on_errors():
        raise UserError("mine")


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
    ("guilty", "told"),
    [((), [None, None]), ((0, 1), ["mistake of 0", 2]), ((1,), ["rank 1: mistake of 1", 2])],
)
def test_a_mistake_ends_all_ranks_and_is_told_once(guilty, told):
    assert run_ranks(2, one_mistake, guilty) == told


def late(ranks):
    steps = ranks.with_step_group(0.5, CPU, None)
    if not ranks.is_main:
        time.sleep(1)
        return True
    with pytest.raises(RuntimeError, match=r"gloo|Gloo"):
        steps.sum([1])
    return True


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
        stream = Stream(batches(), StandInPictures(), signals, steps)
        first = len(stream.take().images)
        if ranks.is_main:
            with pytest.raises(RuntimeError, match=r"gloo|Gloo"):
                stream.take()
    return first


def test_loaders_have_the_time_to_start_up():
    """And no more than a step's for the batches after the first."""
    assert run_ranks(2, slow_to_start, seconds=30) == [4, 4]


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:5] closed"), True),
        (RuntimeError("Gloo connectFullMesh failed with closed"), True),
        (torch.distributed.DistBackendError("NCCL error"), True),
        (RuntimeError("/data/igloo/1.jpg cannot be used"), False),
        (ImageError("[/data/gloo/1.jpg] cannot be used"), False),
        (torch.OutOfMemoryError("of Gloo"), False),
    ],
)
def test_which_errors_are_of_the_network(error, lost):
    assert joining._of_the_network(error) == lost


def failing(how):
    """A process whose groups are on GPUs, as far as it can be told here, and how it leaves."""
    aborted = []
    torch.cuda.is_initialized = lambda: True
    torch.distributed.distributed_c10d._abort_process_group = lambda: aborted.append(how)
    try:
        with join_ranks() as ranks:
            ranks.barrier()
            if how is not None:
                raise how
    except (SystemExit, KeyError) as error:
        return aborted, type(error)
    return aborted, torch.distributed.is_initialized()


@pytest.mark.parametrize("how", [None, KeyError, RuntimeError("Gloo timed out")])
def test_who_leaves_by_an_error_waits_for_no_collective(how):
    ended = {None: ([], False), KeyError: ([KeyError], KeyError)}
    results = run_processes(2, failing, how)
    if isinstance(how, RuntimeError):
        assert [(len(aborted), end) for aborted, end in results] == [(1, SystemExit)] * 2
    else:
        assert results == [ended[how]] * 2


def deserted(how):
    """Rank 1 goes, in one way or another; what rank 0's process ends with."""
    try:
        with join_ranks() as ranks:
            steps = ranks.with_step_group(1, CPU, None)
            if ranks.is_main:
                steps.sum([1])
            elif how == "silent":
                time.sleep(2)
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize(("how", "reason"), [("gone", "onnection"), ("silent", "Timed out")])
def test_a_rank_that_loses_the_others_says_so_and_ends(how, reason, capfd, monkeypatch):
    monkeypatch.setattr("logging.root.handlers", [])  # pytest's
    assert run_processes(2, deserted, how) == [1, None]
    lines = [line for line in capfd.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1
    assert re.search(rf"rank 0 lost the other processes: .*{reason}.*--resume", lines[0])
