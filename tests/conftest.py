"""What all tests share: one thread, set before anything imports torch, and an order for two cores.

Tiny networks gain nothing from more threads, and where processes share cores they wait for one
another at the end of every parallel loop.
"""

import os

import pytest

os.environ["OMP_NUM_THREADS"] = "1"

FIRST = pytest.StashKey[bool]()


@pytest.fixture(scope="session", autouse=True)
def first_backward_pass():
    """If it came after a compilation, it would start threads, and forked processes could do none.

    Any test may be the first in its process to compile.
    """
    import torch

    torch.ones(1, requires_grad=True).backward()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Decides what several processes share: modules, whose fixtures are made once, and slow tests.

    Slow tests are handed out one by one, and first, so that none ends long after all others.
    """
    if not os.environ.get("PYTEST_XDIST_WORKER"):
        return
    for item in items:
        first = any(item.get_closest_marker(name) for name in ("slow", "xdist_group"))
        if not first:
            item.add_marker(pytest.mark.xdist_group(item.module.__name__))
        item.stash[FIRST] = first
    items.sort(key=lambda item: not item.stash[FIRST])
