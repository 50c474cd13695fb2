"""Training, evaluating and detecting as on macOS and Windows, on stand-ins.

Workers are spawned, there are no memory files and no process groups, and the device has no float64.
"""

import contextlib
import gc
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys

import cv2
import pytest
import torch

from core import cli
from core.checkpoint.run_directory import RunDirectory
from core.checkpoint.snapshot import read_weights
from core.data import loader
from core.distributed.agent_watch import watch_agent
from core.evaluation import command as evaluate
from core.structures import Batch
from core.tools import detect, plan
from core.training import command as train
from tests.support.other_device import OTHER, OtherDevice
from tests.support.tiny_training import NAME, argv, write_training

LINUX_ONLY = ("memfd_create", "setpgid")
# Python runs a file of this name in every process that it starts.
AT_THE_START = """
import os, sys
for name in {names}:
    delattr(os, name)
if "--multiprocessing-fork" in sys.orig_argv:
    with open({seen!r}, "a") as file:
        file.write("spawned\\n")
"""


@pytest.fixture
def other_system(tmp_path, monkeypatch):
    """This process and those that it starts lack Linux's calls; counts those that it spawned."""
    seen = tmp_path / "seen"
    (tmp_path / "start").mkdir()
    code = AT_THE_START.format(names=LINUX_ONLY, seen=str(seen))
    (tmp_path / "start" / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path / "start"), os.getcwd())))
    for name in LINUX_ONLY:
        monkeypatch.delattr(os, name)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    method = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    with OtherDevice(float64=False):
        yield lambda: seen.read_text().count("spawned")
    multiprocessing.set_start_method(method, force=True)


def final_weights(root, workers, device):
    """Weights of a run of two steps."""
    write_training(root, max_iter=2, val_iter=0, workers=workers)
    assert train.main([argv(root)[0], "--device", device]) == 0
    return read_weights(RunDirectory(root / "cache", NAME).snapshot(2))


@pytest.mark.slow
def test_training_evaluating_and_detecting(tmp_path, other_system):
    usual, other = tmp_path / "usual", tmp_path / "other"
    usual.mkdir()
    other.mkdir()
    expected = final_weights(usual, 0, "cpu")
    weights = final_weights(other, 1, str(OTHER))
    assert other_system() == 1
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-5)
    arguments = [argv(other)[0], "--device", str(OTHER)]
    assert evaluate.main(arguments) == 0
    assert other_system() == 2
    results = [json.loads(path.read_text()) for path in (other / "results").rglob("results.json")]
    assert len(results) == 1
    images = other / "data" / "shapes" / "images" / "val"
    assert detect.main([*arguments, str(images), "--out", str(tmp_path / "drawn")]) == 0
    assert len(list((tmp_path / "drawn").iterdir())) == 3


def test_without_process_groups_workers_ignore_ctrl_c(monkeypatch):
    """As on Windows, where it reaches every process of the console."""
    handlers = {}
    monkeypatch.delattr(os, "setpgid")
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(cv2, "setNumThreads", lambda _: None)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    loader._start_worker(0)
    assert handlers == {signal.SIGINT: signal.SIG_IGN}


def test_on_windows_nothing_watches_an_agent(monkeypatch):
    """There ``os.kill(process, 0)`` would end the process that it asks for."""
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: started.append(1) or Watcher())
    for name in ("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS"):
        monkeypatch.setenv(name, "0")
    watch_agent()
    assert started == [1]
    monkeypatch.setattr(os, "name", "nt")
    watch_agent()
    assert started == [1]


class Watcher:
    """What ``watch_agent`` starts."""


@pytest.mark.parametrize(
    ("device", "waits"), [("cpu", True), ("mps", True), ("cuda", False), ("cuda:1", False)]
)
def test_only_cuda_copies_a_batch_while_the_host_goes_on(device, waits):
    copies = []

    class Recorded:
        def to(self, device, non_blocking):
            copies.append((device, non_blocking))

    Batch(*[Recorded()] * 7).to(torch.device(device))
    assert copies == [(torch.device(device), not waits)] * 7


def test_without_sysconf_the_memory_is_unknown(monkeypatch):
    assert plan._available_bytes(torch.device("cpu"), 0) is not None
    monkeypatch.delattr(os, "sysconf_names")
    assert plan._available_bytes(torch.device("cpu"), 0) is None


def test_an_output_without_our_letters(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert cli.main(["--help"]) == 0
    sys.stdout.flush()
    assert rb"usage: cornerkit COMMAND \u2026" in written.getvalue()
