"""Which snapshots are of the last run in a folder, and which one of them --snapshot takes."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import train
from core.checkpoint import snapshot as checkpoint
from core.checkpoint.run_directory import RunDirectory, SnapshotWriter
from core.checkpoint.snapshot import Meta, read_meta, save_snapshot
from core.config.errors import UserError
from core.models.loading import load_detector
from tests.support import tiny_detector
from tests.support.tiny_training import NAME, argv, write_training


@pytest.fixture
def directory(tmp_path):
    return RunDirectory(tmp_path, "Tiny")


def meta_of(iteration, directory):
    return Meta(directory.name, iteration, ("cat",), {}, checkpoint.versions())


def run(directory, *iterations, after=None):
    """Saves the snapshots of a run that begins anew, or after an iteration."""
    with SnapshotWriter(directory, keep=9, saved=after) as writer:
        for iteration in iterations:
            writer.write(nn.Linear(2, 2), {}, meta_of(iteration, directory))
    return writer


def test_a_new_run_in_the_same_folder(directory):
    run(directory, 10, 20, 30)
    assert directory.newest()[1] == directory.latest_valid() == 30
    run(directory, 5, 10)
    assert directory.in_order() == [20, 30, 5, 10]
    assert directory.newest()[1] == directory.latest_valid() == 10
    run(directory, 15, after=10)
    assert directory.in_order() == [20, 30, 5, 10, 15]


def test_a_start_that_saved_nothing_changes_nothing(directory):
    run(directory, 10, 20, 30)
    run(directory)
    run(directory, after=10)
    assert directory.newest()[1] == 30
    run(directory, 20, after=10)
    assert directory.newest()[1] == directory.latest_valid() == 20


def test_snapshots_of_before_starts_were_counted(directory):
    """And those that have no description: they go by their iterations, before all others."""
    for iteration in (100, 30):
        save_snapshot(
            directory.snapshot(iteration), nn.Linear(2, 2), {}, meta_of(iteration, directory)
        )
    directory.snapshot(200).touch()
    description = directory.snapshot(30).with_suffix(".json")
    content = json.loads(description.read_text())
    del content["start_number"], content["start_iteration"]
    description.write_text(json.dumps(content))
    assert directory.in_order() == [30, 100, 200]
    run(directory, 40, after=30)
    assert directory.in_order() == [30, 100, 200, 40]
    description.write_text("{")
    assert directory.newest()[1] == 40


@pytest.mark.parametrize(
    ("starts", "left_over"),
    [
        ([], False),  # the run goes on
        ([(30, 20)], False),  # it was resumed after the best weights
        ([(20, 20)], False),
        ([(10, 10)], True),  # or before them
        ([(0, 10)], True),  # or another one was begun
        ([(0, 10), (10, 30)], True),
    ],
)
def test_weights_of_an_earlier_run(directory, starts, left_over):
    """The best weights are of iteration 20 of the first run."""
    best = run(directory, 10, 20, 30).with_start(meta_of(20, directory))
    for after, iteration in starts:
        run(directory, iteration, after=after or None)
    assert directory.is_left_over(best) == left_over


def test_a_real_run_that_begins_anew(tmp_path):
    """It takes two steps where the one before took four; a third one goes on from there."""
    write_training(tmp_path, eval_iter=4, val_iter=0)
    assert train.main(argv(tmp_path)) == 0
    best = read_meta(RunDirectory(tmp_path / "cache", NAME).best)
    assert (best.start_number, best.start_iteration) == (1, 0)
    more = ["--set", "system.eval_iter=0", "--set", "system.snapshot=1"]
    assert train.main(argv(tmp_path, *more, "--set", "system.max_iter=2")) == 0
    directory = RunDirectory(tmp_path / "cache", NAME)
    assert directory.in_order() == [4, 1, 2]
    assert directory.is_left_over(read_meta(directory.best))
    assert train.main(argv(tmp_path, *more, "--resume", "--set", "system.max_iter=3")) == 0
    assert directory.in_order() == [4, 1, 2, 3]
    assert read_meta(directory.snapshot(3)).start_iteration == 2


@pytest.fixture
def root(tmp_path):
    """Snapshots 20 and, of a later run, 10; and the best weights of the later one."""
    tiny_detector.write_config(tmp_path)
    for iteration, start in ((20, 1), (10, 2)):
        path = tiny_detector.write_snapshot(tmp_path, iteration, ("disc", "ring"))
        meta = replace(read_meta(path), start_number=start)
        weights = checkpoint.read_weights(path)
        save_snapshot(path, weights, {}, meta)
    save_snapshot(best_of(tmp_path), weights, None, replace(meta, iteration=7))
    return tmp_path


def best_of(root):
    return RunDirectory(root / "cache", "CornerNet-tiny").best


def load(root, snapshot):
    return load_detector("CornerNet-tiny", snapshot, "cpu", config_dir=root / "configs")


@pytest.mark.parametrize(
    ("snapshot", "iteration"),
    [(None, 10), ("last", 10), (20, 20), ("20", 20), ("best", 7)],
)
def test_choices(root, snapshot, iteration):
    assert load(root, snapshot).iteration == iteration


def test_files_by_the_names_of_choices(root, monkeypatch):
    monkeypatch.chdir(root)
    for name in ("best", "20"):
        (root / name).write_bytes(best_of(root).read_bytes())
        assert load(root, f"./{name}").snapshot.resolve() == root / name


def test_choices_that_are_not_there(root):
    with pytest.raises(UserError, match=r"^--snapshot newest: .* best, last, the number of an"):
        load(root, "newest")
    meta = read_meta(best_of(root))
    save_snapshot(best_of(root), {"a": torch.zeros(1)}, None, replace(meta, start_number=1))
    with pytest.raises(UserError, match=r"is of an earlier run .* its iteration 7; .*last"):
        load(root, "best")
    best_of(root).unlink()
    with pytest.raises(UserError, match=r"no .*_best\.pkl; .*system\.eval_iter.* --snapshot last"):
        load(root, "best")
