"""Joining the others: over which network, at addresses of this start; and what a rank's loss is."""

import multiprocessing
import os
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from core.config.errors import UserError
from core.distributed import ONE_PROCESS, join, join_ranks
from core.distributed.join import (
    choose_interface,
    interface_to,
    is_network_error,
    store_of_this_start,
)
from core.evaluation.evaluator import EvaluationError
from tests.support.some_ranks import run_processes

CPU = torch.device("cpu")
LIMIT = timedelta(seconds=20)
VARIABLE = "GLOO_SOCKET_IFNAME"


def test_one_process_has_no_process_group():
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


def test_a_loopback_and_an_unknown_host_have_no_interface():
    assert interface_to("127.0.0.1") is None
    assert interface_to("localhost") is None
    assert interface_to("host.invalid") is None


def test_the_way_out_is_an_interface_of_this_machine():
    name = interface_to("192.0.2.1")
    if name is None:
        pytest.skip("this machine has no network, or another system than Linux")
    assert name in [known for _, known in socket.if_nameindex()]


@pytest.mark.parametrize(
    ("address", "machines", "known", "chosen"),
    [
        ("10.0.0.1", 2, {"10.0.0.1": "eth1", "192.0.2.1": "eth0"}, "eth1"),
        ("rank-0", 2, {"192.0.2.1": "eth0"}, "eth0"),  # its own name, which is a loopback there
        ("rank-0", 2, {}, None),
        ("127.0.0.1", 2, {"192.0.2.1": "eth0"}, None),
        ("10.0.0.1", 1, {"10.0.0.1": "eth1"}, None),
    ],
)
def test_gloo_takes_the_interface_that_leads_to_rank_0(
    monkeypatch, address, machines, known, chosen
):
    monkeypatch.setattr(join, "interface_to", known.get)
    given = {"MASTER_ADDR": address, "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": str(4 // machines)}
    monkeypatch.setattr(os, "environ", dict(given))
    choose_interface()
    assert os.environ.get(VARIABLE) == chosen


def test_the_users_choice_stays(monkeypatch):
    given = {"MASTER_ADDR": "10.0.0.1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
    monkeypatch.setattr(join, "interface_to", lambda host: "eth1")
    monkeypatch.setattr(os, "environ", {**given, VARIABLE: "ib0"})
    choose_interface()
    assert os.environ[VARIABLE] == "ib0"


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
            rank: pool.submit(store_of_this_start, connect(), rank, len(order), LIMIT)
            for rank in order
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
        early = pool.submit(store_of_this_start, connect(), 1, 2, LIMIT)
        threading.Event().wait(0.3)
        assert not early.done()
        first = store_of_this_start(connect(), 0, 2, LIMIT)
        first.set("address", "there")
        assert early.result().get("address") == b"there"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_nobody_meets_gives_up(connect, rank):
    start(connect, (0, 1))
    store, begin = connect(), time.monotonic()
    store.set_timeout(timedelta(seconds=5))
    with pytest.raises(dist.DistStoreError):
        store_of_this_start(store, rank, 2, timedelta(seconds=0.3))
    assert time.monotonic() - begin < 3


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:5] closed"), True),
        (RuntimeError("Gloo connectFullMesh failed with closed"), True),
        (torch.distributed.DistBackendError("NCCL error"), True),
        (RuntimeError("/data/igloo/1.jpg cannot be used"), False),
        (EvaluationError("[/data/gloo/1.jpg] cannot be used"), False),
        (torch.OutOfMemoryError("of Gloo"), False),
    ],
)
def test_which_errors_are_of_the_network(error, lost):
    assert is_network_error(error) == lost


def deserted(how):
    """Rank 1 goes, in one way or another; returns what rank 0's process ends with."""
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


def deserted_on_a_gpu(rank, port):
    """Rank 1 is killed while rank 0 waits for it on the GPU."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    # NCCL refuses two ranks on one GPU of a machine: they say that they are on two machines.
    os.environ |= {"NCCL_HOSTID": str(rank), "NCCL_SOCKET_IFNAME": "lo"}
    with join_ranks() as ranks:
        ranks = ranks.with_step_group(45, torch.device("cuda:0"), "nccl")
        total = ranks.sum_(torch.ones(1_000_000, device="cuda"))
        torch.cuda.synchronize()
        if rank == 1:
            os._exit(9)
        time.sleep(1)
        for _ in range(3):  # NCCL's error comes with one of the next
            total = ranks.sum_(2 * total)
        torch.cuda.synchronize()


@pytest.mark.cuda
@pytest.mark.skipif(
    not (torch.cuda.is_available() and torch.distributed.is_nccl_available()),
    reason="needs a GPU and NCCL",
)
def test_a_rank_that_loses_the_others_on_a_gpu_ends_with_its_own_exit_code():
    """And not with SIGABRT's, by NCCL's watchdog."""
    context = multiprocessing.get_context("spawn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = [context.Process(target=deserted_on_a_gpu, args=(rank, port)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        process.kill()
    assert [process.exitcode for process in ranks] == [1, 9]
