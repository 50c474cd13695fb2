"""What all tests share: one thread, set before anything imports torch, and an order for two cores.

Tiny networks gain nothing from more threads, and where processes share cores they wait for one
another at the end of every parallel loop.
"""

import os

import pytest

os.environ["OMP_NUM_THREADS"] = "1"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Puts slow tests first where several processes share the tests: none ends long after them."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)
