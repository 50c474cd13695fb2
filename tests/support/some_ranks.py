"""Runs a function in several processes that know each other as torchrun's do, without torchrun."""

import multiprocessing
import os
import pickle
import socket
import threading
import traceback

import pytest
from tqdm import tqdm

from core.distributed import join_ranks


def run_ranks(world_size, function, *arguments, seconds=120, method="fork"):
    """Results of ``function(ranks, *arguments)``, by rank; its errors fail the test.

    CUDA needs the method "spawn".
    """
    return run_processes(world_size, _joined, function, arguments, seconds=seconds, method=method)


def run_processes(world_size, function, *arguments, seconds=120, method="fork"):
    """Results of ``function(*arguments)`` in every process; its errors fail the test."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    context = multiprocessing.get_context(method)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes, processes = [], []
    for rank in range(world_size):
        here, there = context.Pipe(duplex=False)
        given = (rank, world_size, port, there, function, arguments)
        processes.append(context.Process(target=_body, args=given))
        processes[-1].start()
        there.close()
        pipes.append(here)
    try:
        return [_result(rank, pipe, seconds) for rank, pipe in enumerate(pipes)]
    finally:
        for process in processes:
            process.join(1)
            process.kill()


def _result(rank, pipe, seconds):
    assert pipe.poll(seconds), f"rank {rank} is still at work after {seconds} s"
    result, error = pickle.loads(pipe.recv_bytes())
    assert error is None, f"rank {rank}: {error}"
    return result


def _body(rank, world_size, port, pipe, function, arguments):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }
    tqdm.set_lock(threading.RLock())  # not the tests' own, which a killed process might keep
    result, error = None, None
    try:
        result = function(*arguments)
    except BaseException:
        error = traceback.format_exc()
    pipe.send_bytes(pickle.dumps((result, error)))  # by value: memory shared by tensors ends here


def _joined(function, arguments):
    with join_ranks() as ranks:
        return function(ranks, *arguments)
