"""Processes that were started again find one another, not those that died."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from core.distributed.rendezvous import fresh_store

LIMIT = timedelta(seconds=20)


@pytest.fixture
def connect():
    """Opens the agents' store once more, as a process that was started does."""
    agents = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def client():
        return dist.TCPStore("127.0.0.1", agents.port, is_master=False)

    yield client
    assert agents is not None


def start(connect, order):
    """Starts ranks in an order; their stores by rank."""
    with ThreadPoolExecutor() as pool:
        found = {
            rank: pool.submit(fresh_store, connect(), rank, len(order), LIMIT) for rank in order
        }
        return [found[rank].result() for rank in range(len(order))]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_every_start_has_a_store_of_its_own(connect, order):
    for _ in range(3):
        stores = start(connect, order)
        assert not any(store.check(["address"]) for store in stores)
        stores[1].set("address", "there")
        assert [store.get("address") for store in stores] == [b"there"] * 3


def test_a_rank_waits_for_a_rank_0_that_is_started_later(connect):
    start(connect, (0, 1))
    with ThreadPoolExecutor() as pool:
        early = pool.submit(fresh_store, connect(), 1, 2, LIMIT)
        threading.Event().wait(0.3)
        assert not early.done()
        first = fresh_store(connect(), 0, 2, LIMIT)
        first.set("address", "there")
        assert early.result().get("address") == b"there"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_nobody_meets_gives_up(connect, rank):
    start(connect, (0, 1))
    with pytest.raises(dist.DistStoreError):
        fresh_store(connect(), rank, 2, timedelta(seconds=0.3))
