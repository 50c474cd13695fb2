"""Training, evaluating and detecting as on macOS and Windows, on stand-ins.

Workers are spawned, there are no memory files and no process groups, and the device has no float64.
"""

import contextlib
import json
import multiprocessing
import os

import pytest
import torch

from core.checkpoint.run_directory import RunDirectory
from core.checkpoint.snapshot import read_weights
from core.evaluation import command as evaluate
from core.tools import detect
from core.train import command as train
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
