"""What all tests share: one thread, set before anything imports torch, and an order for two cores.

Tiny networks gain nothing from more threads, and where processes share cores they wait for one
another at the end of every parallel loop. PyTorch's compiler starts no processes of its own, which
would import PyTorch for a few kernels.
"""

import logging
import os

import pytest

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def first_backward_pass():
    """If it came after a compilation, it would start threads, and forked processes could do none.

    Any test may be the first in its process to compile.
    """
    import torch

    torch.ones(1, requires_grad=True).backward()


@pytest.fixture(autouse=True)
def same_logging():
    """A command that runs in this process sets up logging; later tests shall not notice."""
    level, handlers = logging.root.level, list(logging.root.handlers)
    yield
    logging.root.setLevel(level)
    for handler in [each for each in logging.root.handlers if each not in handlers]:
        logging.root.removeHandler(handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Escapes lone surrogates of odd file names in what was logged: xdist cannot send them."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report


def pytest_collection_modifyitems(items):
    """Puts files with slow tests first where processes share the files: none ends long after all.

    The order within a file stays.
    """
    if os.environ.get("PYTEST_XDIST_WORKER"):
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)
