"""Runs a function in a new process, whose memory holds nothing of the tests before."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from benchmarks.process_memory import own_megabytes as own_megabytes

needs_account = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists() or not Path("/proc/self/clear_refs").exists(),
    reason="reads Linux's account of a process's memory",
)


def in_own_process(function, *arguments, seconds=120):
    """Result of ``function(*arguments)`` there; both must be picklable.

    A process that has run many tests has gigabytes of freed memory: what it takes next comes from
    there, and a process forked from it copies some of that at every turn. The new process starts
    its own children as this one does.
    """
    spawn, method = multiprocessing.get_context("spawn"), multiprocessing.get_start_method()
    with ProcessPoolExecutor(1, spawn, _start_children_by, (method,)) as pool:
        return pool.submit(function, *arguments).result(seconds)


def _start_children_by(method):
    multiprocessing.set_start_method(method, force=True)
