"""Evaluation by several ranks: the figures, files and messages of one process."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import evaluate as command
from core.config.errors import UserError
from core.data.coco import CocoDetection
from core.data.images import ImageFiles
from core.data.shapes import write_shapes
from core.distributed.ranks import ONE_PROCESS
from core.evaluation import run, shares
from core.evaluation.shares import ImageError, every_image
from core.models.loading import load_detector
from tests.support.some_ranks import run_processes, run_ranks
from tests.support.tiny_detector import write_config, write_snapshot

REPOSITORY = Path(__file__).parents[2]
PICTURES = 11


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A split of pictures, with a config and a snapshot for them."""
    root = tmp_path_factory.mktemp("data")
    write_config(root)
    write_shapes(root / "data" / "coco", {"val": PICTURES}, size=64, seed=3)
    write_snapshot(root, 20, val_split(root).class_names)
    return root


def val_split(root):
    data = root / "data" / "coco"
    return CocoDetection(data / "annotations" / "instances_val.json", data / "images" / "val")


def evaluate(ranks, root, result_dir):
    detector = load_detector(
        str(root / "configs" / "CornerNet-tiny.json"),
        device="cpu",
        overrides=[f"system.result_dir={result_dir}", "db.test_flipped=false"],
    )
    return run.evaluate_detector(detector, "validation", debug=True, ranks=ranks)


def files(folder):
    """Contents by name, those of metrics.json without the time."""
    found = {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*.*")}
    (name,) = (name for name in found if name.name == "metrics.json")
    metrics = json.loads(found.pop(name))
    assert metrics.pop("seconds") > 0 and metrics.pop("images_per_second") > 0
    return found | {name: metrics}


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_give_the_files_of_one_process(data, tmp_path, world_size, monkeypatch, capfd):
    monkeypatch.setattr(shares, "_ROUND", 2)
    alone = evaluate(ONE_PROCESS, data, tmp_path / "alone")
    capfd.readouterr()
    metrics = run_ranks(world_size, evaluate, data, tmp_path / "together")
    assert [m["AP"] for m in metrics] == [alone["AP"]] * world_size
    assert capfd.readouterr().err.count(f"{PICTURES}/{PICTURES}") == 1  # one progress bar
    expected, given = files(tmp_path / "alone"), files(tmp_path / "together")
    assert len(expected) == PICTURES + 2
    assert sum(len(json.loads(c)) for n, c in expected.items() if n.name == "results.json") > 50
    assert given.keys() == expected.keys()
    for name, content in expected.items():
        assert given[name] == content, name


def look_until(ranks, root, bad):
    """The pictures that were put together before it ended, and how it ended."""

    def look(index, image):
        if index in bad:
            raise bad[index](f"picture {index}")
        return index

    seen = []
    try:
        for index in every_image(look, val_split(root), 0, ranks):
            seen.append(index)
    except Exception as error:
        return seen, type(error), str(error)
    return seen, None, None


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_rank_has_every_picture_in_order(data, world_size, monkeypatch):
    monkeypatch.setattr(shares, "_ROUND", 1)
    expected = (list(range(PICTURES)), None, None)
    assert run_ranks(world_size, look_until, data, {}) == [expected] * world_size


def test_the_first_failure_ends_all_ranks(data, monkeypatch):
    monkeypatch.setattr(shares, "_ROUND", 2)
    bad = {9: UserError, 6: UserError, 5: UserError}
    expected = ([0, 1, 2, 3], UserError, "picture 5")
    assert run_ranks(2, look_until, data, bad) == [expected] * 2
    seen, *error = look_until(ONE_PROCESS, data, bad)
    assert (seen, error) == ([0, 1, 2, 3, 4], [UserError, "picture 5"])


def test_an_error_is_told_by_all_ranks(data):
    text = f"{val_split(data).image_path(3)}: KeyError: 'picture 3'"
    expected = ([], ImageError, text)
    assert run_ranks(2, look_until, data, {3: KeyError}) == [expected] * 2
    seen, *error = look_until(ONE_PROCESS, data, {3: KeyError})
    assert (seen, error) == ([0, 1, 2], [ImageError, text])


def deserted(ranks, root, slow):
    """How many pictures were put together while rank 1 took its time, and what ended that."""
    ranks = ranks.with_step_group(1, torch.device("cpu"), None)
    seen = 0
    try:
        for _ in every_image(
            lambda index, _: time.sleep(3 * (index == slow)), val_split(root), 0, ranks
        ):
            seen += 1
    except RuntimeError as error:
        return seen, re.search("gloo", str(error), re.I) is not None
    return seen, False


@pytest.mark.parametrize(("slow", "expected"), [(1, (PICTURES, False)), (3, (2, True))])
def test_a_rank_that_is_gone_is_noticed_as_in_a_step(data, slow, expected, monkeypatch):
    """But for the first pictures, for which workers have to start."""
    monkeypatch.setattr(shares, "_ROUND", 1)
    assert run_ranks(2, deserted, data, slow)[0] == expected


def spoilt(ranks, root, result_dir):
    try:
        evaluate(ranks, root, result_dir)
    except UserError as error:
        return str(error)
    except SystemExit as end:
        return end.code


def test_an_unreadable_picture_is_told_once(data, tmp_path):
    path = val_split(data).image_path(4)
    content = path.read_bytes()
    path.write_bytes(b"no picture")
    try:
        told, code = run_ranks(2, spoilt, data, tmp_path)
        assert told == spoilt(ONE_PROCESS, data, tmp_path)
    finally:
        path.write_bytes(content)
    assert f"{path} cannot be decoded" in told
    assert code == 2
    assert not list(tmp_path.rglob("*.json"))


def by_command(given):
    logging.basicConfig(force=True, stream=sys.stderr, format="%(message)s")
    return command.main(given)


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_lost_worker_is_one_line(data, tmp_path, world_size, monkeypatch, capfd):
    def die(pictures, index):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(ImageFiles, "__getitem__", die)
    given = [str(data / "configs" / "CornerNet-tiny.json"), "--device", "cpu", "--workers", "1"]
    given += ["--set", f"system.result_dir={tmp_path}"]
    assert run_processes(world_size, by_command, given) == [1] * world_size
    told = capfd.readouterr().err
    (line,) = [line for line in told.splitlines() if "error" in line.lower()]
    assert re.search(r"worker \(pid.*(Killed|exited unexpectedly).*lower system\.workers", line)
    assert "Traceback" not in told


@pytest.mark.slow  # three processes that import torch
def test_torchrun(data, tmp_path):
    config = str(data / "configs" / "CornerNet-tiny.json")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    words = ["evaluate.py", config, "--device", "cpu", "--set", f"system.result_dir={tmp_path}"]
    done = subprocess.run(
        [*launcher, *words, "--set", "db.test_flipped=false", "--debug"],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all") == 1
    evaluate(ONE_PROCESS, data, tmp_path / "alone")
    together = files(tmp_path / "CornerNet-tiny")
    assert together == files(tmp_path / "alone" / "CornerNet-tiny")
