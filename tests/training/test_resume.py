"""train.py --resume: bit for bit the run that was never stopped, whatever happened to it."""

import json
import logging
import resource
import sys
import time
from pathlib import Path

import pytest
import torch

import evaluate
import train
from core.checkpoint import files
from core.checkpoint import snapshot as checkpoint
from core.checkpoint.run_directory import RunDirectory
from core.config.errors import UserError
from core.training import graphs
from core.training.log import read_log
from tests.checkpoint.test_files import Killed
from tests.support.same_run import differences
from tests.support.some_ranks import run_processes
from tests.support.tiny_training import NAME, argv, write_config, write_training


def path(root, iteration):
    return RunDirectory(root / "cache", NAME).snapshot(iteration)


def losses(root):
    lines = read_log(root / "cache" / "nnet" / NAME / "log.jsonl")
    return [(x["iteration"], x["terms"] if "loss" in x else x["validation"]) for x in lines]


def saved(root, iteration):
    """Every tensor of a snapshot, the optimiser's among them."""
    state = checkpoint.load_training_state(path(root, iteration))["optimizer"]["state"]
    optimizer = {(n, key): value for n, one in state.items() for key, value in one.items()}
    return {**checkpoint.read_weights(path(root, iteration)), **optimizer}


def check_same(root, whole):
    assert losses(root) == losses(whole)
    assert len(losses(whole)) == 6
    mine, theirs = saved(root, 4), saved(whole, 4)
    assert set(mine) == set(theirs)
    for key, value in theirs.items():
        assert torch.equal(mine[key], value), key


def run(world_size, root, *more):
    """train.py's exit codes in so many processes."""
    return run_processes(world_size, train.main, argv(root, *more))


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two processes"])
def whole(request, tmp_path_factory):
    """The number of processes, and their run of four steps that nothing stopped."""
    root = tmp_path_factory.mktemp("whole")
    write_training(root)
    assert run(request.param, root, "--resume") == [0] * request.param
    return request.param, root


@pytest.mark.parametrize("workers", [(0, 0), (0, 2), (1, 0)], ids="{0[0]} then {0[1]}".format)
def test_a_resumed_run_is_bit_for_bit_one_that_never_stopped(whole, tmp_path, workers):
    """Whatever the number of loader workers before and after."""
    world_size, root = whole
    write_training(tmp_path)
    first, second = (("--resume", "--workers", str(number)) for number in workers)
    assert run(world_size, tmp_path, *first, "--set", "system.max_iter=2") == [0] * world_size
    assert run(world_size, tmp_path, *second) == [0] * world_size
    check_same(tmp_path, root)


RECIPE = {"opt_algo": "adamw", "schedule": "cosine", "warmup": 2, "ema": 0.9, "eval_iter": 2}


def killed_in(step, given):
    """train.py, killed in a step; of several ranks all are."""
    train_step = graphs.train_step

    def until(run, batch, iteration):
        if iteration == step:
            raise Killed
        return train_step(run, batch, iteration)

    graphs.train_step = until
    try:
        train.main(given)
    except Killed:
        return "killed"


@pytest.mark.parametrize("world_size", [1, 2])
def test_the_whole_recipe_is_resumed_bit_for_bit(tmp_path, world_size):
    """AdamW, warm-up, cosine, averaged weights: all of a snapshot, and what evaluations found."""
    whole, cut = NAME, f"{NAME}-cut"
    write_training(tmp_path, **RECIPE)
    write_config(tmp_path, cut, **RECIPE)
    assert run(world_size, tmp_path) == [0] * world_size
    killed = run_processes(world_size, killed_in, 4, argv(tmp_path, name=cut))
    assert killed == ["killed"] * world_size
    assert RunDirectory(tmp_path / "cache", cut).iterations() == [2]
    resumed = run_processes(world_size, train.main, argv(tmp_path, "--resume", name=cut))
    assert resumed == [0] * world_size
    assert differences(tmp_path, whole, cut) == []
    file = path(tmp_path, 4)
    averages = checkpoint.read_weights(checkpoint.averaged_path(file))
    for key, value in checkpoint.read_weights(file).items():
        if value.is_floating_point():
            assert not torch.equal(averages[key], value), key
    lines = read_log(file.parent / "log.jsonl")
    evaluations = [line for line in lines if "evaluation" in line]
    assert [line["iteration"] for line in evaluations] == [2, 4]
    for line in evaluations:
        assert line["evaluation"] == line["by_weights"][line["weights"]]
        assert set(line["by_weights"]) == {"averaged", "raw"}
    rates = [line["learning_rate"] for line in lines if "learning_rate" in line]
    assert rates == pytest.approx([0.0005, 0.001, 0.000505, 0.00001])


def test_another_number_of_processes_goes_on_with_the_same_steps(tmp_path):
    """In float32, and so as close as four steps of Adam leave it."""
    roots = [tmp_path / "a", tmp_path / "b"]
    for root, second in zip(roots, (1, 2), strict=True):
        root.mkdir()
        write_training(root)
        assert run(1, root, "--set", "system.max_iter=2") == [0]
        assert run(second, root, "--resume") == [0] * second
    for (step, mine), (_, theirs) in zip(*map(losses, roots), strict=True):
        mine, theirs = (terms.get("terms", terms) for terms in (mine, theirs))
        assert mine == pytest.approx(theirs, rel=1e-4), step


def test_resume_passes_over_a_corrupt_snapshot(tmp_path, caplog):
    write_training(tmp_path)
    assert train.main(argv(tmp_path)) == 0
    expected = losses(tmp_path), saved(tmp_path, 4)
    content = bytearray(path(tmp_path, 4).read_bytes())
    content[len(content) // 2] ^= 1
    path(tmp_path, 4).write_bytes(content)
    with pytest.raises(UserError, match=r"_4\.pkl is corrupt.*--resume"):
        train.main(argv(tmp_path, "--iter", "4"))
    assert train.main(argv(tmp_path, "--resume")) == 0
    assert f"{path(tmp_path, 4)} is skipped" in caplog.text
    assert losses(tmp_path) == expected[0]
    assert all(torch.equal(value, expected[1][key]) for key, value in saved(tmp_path, 4).items())
    assert checkpoint.corruption(path(tmp_path, 4)) is None


def test_weights_are_checked_also_where_they_stand_alone(tmp_path):
    """By --iter once the training state was forgotten, by evaluate.py, by --weights."""
    write_training(tmp_path, snapshot=1, keep=1)
    assert train.main(argv(tmp_path, "--set", "system.max_iter=2")) == 0
    assert checkpoint.load_training_state(path(tmp_path, 1)) is None
    content = bytearray(path(tmp_path, 1).read_bytes())
    content[len(content) // 2] ^= 1
    path(tmp_path, 1).write_bytes(content)
    weights = str(path(tmp_path, 1))
    for main, more in (
        (train.main, ("--iter", "1")),
        (train.main, ("--weights", weights)),
        (evaluate.main, ("--testiter", "1")),
        (evaluate.main, ("--snapshot", weights)),
    ):
        with pytest.raises(UserError, match=r"_1\.pkl is corrupt.*altered since it was saved"):
            main(argv(tmp_path, *more))


@pytest.mark.parametrize(("more", "expected"), [(("--resume",), 2), (("--iter", "2"), 2)])
def test_every_file_is_checked_once(tmp_path, more, expected, monkeypatch):
    write_training(tmp_path, max_iter=2)
    assert train.main(argv(tmp_path)) == 0
    checked = []
    monkeypatch.setattr(
        checkpoint, "sha256_of", lambda file: [checked.append(file), files.sha256_of(file)][1]
    )
    assert train.main(argv(tmp_path, *more)) == 0
    assert len(checked) == len(set(checked)) == expected


def test_without_a_snapshot_it_starts_with_one_line(tmp_path, caplog):
    """So that a job may give the same command every time; and a run that is done stays so."""
    write_training(tmp_path)
    caplog.set_level(logging.INFO)
    assert train.main(argv(tmp_path, "--resume")) == 0
    assert len([line for line in caplog.messages if "to resume from" in line]) == 1
    before = {file: file.read_bytes() for file in path(tmp_path, 4).parent.glob("*_4.*")}
    assert train.main(argv(tmp_path, "--resume")) == 0
    assert {file: file.read_bytes() for file in before} == before


def test_resume_excludes_other_starts(tmp_path, capsys):
    for more in (("--iter", "2"), ("--initialize",)):
        with pytest.raises(SystemExit) as caught:
            train.main(argv(tmp_path, "--resume", *more))
        assert caught.value.code == 2
        assert "not allowed with" in capsys.readouterr().err


def test_the_newest_keep_their_training_state(tmp_path):
    write_training(tmp_path, snapshot=1, keep=2)
    assert train.main(argv(tmp_path)) == 0
    there = [checkpoint.load_training_state(path(tmp_path, step)) for step in (1, 2, 3, 4)]
    assert [state is not None for state in there] == [False, False, True, True]


def test_other_chunks_are_told(tmp_path, caplog):
    write_training(tmp_path)
    assert train.main(argv(tmp_path, "--set", "system.max_iter=2")) == 0
    more = ("--set", "system.chunk_sizes=null")
    assert train.main(argv(tmp_path, "--resume", *more)) == 0
    assert "the chunks of a step were [1, 2] and are [3]" in caplog.text


def on_a_full_disk(given):
    """Files of more than 30 kB cannot be written: not the weights, but the log."""
    logging.basicConfig(force=True, stream=sys.stderr)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
    return train.main(given)


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_full_disk_is_told_and_the_last_snapshot_stays_whole(tmp_path, world_size, capfd):
    write_training(tmp_path, snapshot=1)
    assert run(1, tmp_path, "--set", "system.max_iter=2") == [0]
    codes = run_processes(world_size, on_a_full_disk, argv(tmp_path, "--resume"))
    assert codes[0] == 1
    assert [step for step, _ in losses(tmp_path)] == [1, 2, 2, 3, 4, 4]  # training went on
    printed = capfd.readouterr().err
    assert printed.count("was not saved (OSError: [Errno 27] File too large)") == 2
    assert "the newest snapshot is that of step 2" in printed and "--iter 2" in printed
    assert checkpoint.corruption(path(tmp_path, 2)) is None
    names = {file.name for file in path(tmp_path, 2).parent.iterdir()}
    assert not [name for name in names if "_3" in name or "_4" in name or name.startswith(".")]


def slow_writing(given, seconds, last):
    """Rank 0 takes its time to write; whether the last snapshot is there when a rank ends."""
    save_snapshot = checkpoint.save_snapshot

    def slow(*snapshot):
        time.sleep(seconds)
        save_snapshot(*snapshot)

    checkpoint.save_snapshot = slow
    code = train.main(given)
    return code, path(Path(given[0]).parent.parent, last).is_file()


def test_no_process_ends_before_the_last_snapshot_is_written(tmp_path):
    """torchrun sends SIGTERM to the others once one has ended with a failure."""
    write_training(tmp_path)
    assert run_processes(2, slow_writing, argv(tmp_path), 0.5, 4) == [(0, True)] * 2


@pytest.mark.slow
def test_a_slow_disk_is_waited_for(tmp_path):
    """Longer than one rank waits for another in a step."""
    write_training(tmp_path, max_iter=2, snapshot=1, val_iter=0, dist_timeout=3)
    assert run_processes(2, slow_writing, argv(tmp_path), 5, 2) == [(0, True)] * 2


def test_what_killed_processes_left_is_removed(tmp_path):
    write_training(tmp_path)
    folder = path(tmp_path, 1).parent
    folder.mkdir(parents=True)
    left = folder / f".{NAME}_1.pkl.4711.unfinished"
    left.write_bytes(b"half")
    assert train.main(argv(tmp_path)) == 0
    assert not left.exists()
    assert json.loads(path(tmp_path, 4).with_suffix(".json").read_text())["sha256"]
