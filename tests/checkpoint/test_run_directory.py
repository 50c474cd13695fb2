"""The folder of a run: its valid snapshots, those with a training state, how they are written."""

import logging
import threading

import pytest
import torch
from torch import nn

from core.checkpoint import snapshot as checkpoint
from core.checkpoint.run_directory import RunDirectory, SnapshotWriter
from core.checkpoint.snapshot import Meta, corruption, training_path
from core.config.errors import UserError


@pytest.fixture
def directory(tmp_path):
    return RunDirectory(tmp_path, "Tiny")


def save(directory, iteration, state=True, averages=None):
    path = directory.snapshot(iteration)
    meta = Meta(directory.name, iteration, ("cat",), {}, checkpoint.versions())
    training = {"steps": torch.arange(50)} if state else None
    checkpoint.save_snapshot(path, nn.Linear(3, 3), training, meta, averages)
    return path


def test_paths_and_iterations(directory, tmp_path):
    folder = tmp_path / "nnet" / "Tiny"
    assert directory.path == folder and directory.newest() is None
    assert (directory.log, directory.best) == (folder / "log.jsonl", folder / "Tiny_best.pkl")
    folder.mkdir(parents=True)
    for name in ("Tiny_9.pkl", "Tiny_10.pkl", "Tiny_11.json", "Tiny-a_12.pkl", "Tiny_best.pkl"):
        (folder / name).touch()
    (folder / "Tiny_13.ema.pkl").touch()
    assert directory.iterations() == [9, 10]
    assert directory.newest() == (folder / "Tiny_10.pkl", 10)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1])


CORRUPTION = {
    "weights altered": (flip_a_bit, "", "Tiny_2.pkl was cut short or altered"),
    "weights cut short": (cut_short, "", "Tiny_2.pkl was cut short"),
    "state altered": (flip_a_bit, ".train.pt", "Tiny_2.train.pt was cut short or altered"),
    "average altered": (flip_a_bit, ".ema.pkl", "Tiny_2.ema.pkl was cut short or altered"),
    "average deleted": (lambda path: path.unlink(), ".ema.pkl", "Tiny_2.ema.pkl is not there"),
    "state deleted": (lambda path: path.unlink(), ".train.pt", "Tiny_2.train.pt is not there"),
    "description cut short": (cut_short, ".json", "does not describe a snapshot"),
    "description deleted": (lambda path: path.unlink(), ".json", "there is no Tiny_2.json"),
}


@pytest.mark.parametrize("kind", CORRUPTION)
def test_a_corrupt_snapshot_is_passed_over_with_a_line(directory, kind, caplog):
    before, newest = save(directory, 1), save(directory, 2, averages=nn.Linear(3, 3).state_dict())
    assert directory.latest_valid() == 2
    spoil, ending, message = CORRUPTION[kind]
    spoil(newest.with_suffix(ending or ".pkl"))
    assert directory.latest_valid() == 1
    (line,) = caplog.messages
    assert line.startswith(f"{newest} is skipped: ") and message in line
    assert corruption(before) is None


def test_weights_alone_are_not_resumed_from_silently(directory, caplog):
    save(directory, 1)
    save(directory, 2, state=False)
    assert directory.latest_valid() == 1
    assert "saved without a checksum of Tiny_2.train.pt" in caplog.text


def test_without_snapshots_a_run_starts_but_not_over_corrupt_ones(directory, caplog):
    caplog.set_level(logging.INFO)
    assert directory.latest_valid() is None
    assert caplog.messages == [
        f"there is no snapshot in {directory.path} to resume from: starting from step 1"
    ]
    cut_short(save(directory, 2))
    with pytest.raises(UserError, match=r"no snapshot in .* is valid"):
        directory.latest_valid()


def test_the_newest_keep_their_training_state(directory):
    paths = {iteration: save(directory, iteration) for iteration in (1, 2, 9, 10, 11, 30)}
    other = save(RunDirectory(directory.cache_dir, "Tiny-other"), 1)
    averaged = save(directory, 2, averages={"weight": torch.zeros(2)})
    directory.forget_training_states(11, keep=3)
    kept = [iteration for iteration, path in paths.items() if training_path(path).is_file()]
    assert kept == [9, 10, 11, 30]  # 30 was left by an earlier run
    assert all(path.is_file() for path in paths.values()) and training_path(other).is_file()
    assert corruption(paths[2]) == "Tiny_2.train.pt is not there any more"
    assert checkpoint.has_averaged_weights(averaged)  # these are kept as the raw ones are


def meta_of(iteration):
    return Meta("Tiny", iteration, ("cat",), {}, checkpoint.versions())


def test_a_snapshot_is_what_it_was_when_its_writing_started(directory, monkeypatch, caplog):
    """And the next waits for it."""
    caplog.set_level(logging.INFO)
    network, state = nn.Linear(2, 2), {"deep": [{"moment": torch.zeros(3)}], "steps": 1}
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    go_on, save_snapshot = threading.Event(), checkpoint.save_snapshot

    def slow(*given):
        assert go_on.wait(10)
        save_snapshot(*given)

    monkeypatch.setattr(checkpoint, "save_snapshot", slow)
    first, second = directory.snapshot(1), directory.snapshot(2)
    with SnapshotWriter(directory, keep=1) as writer:
        writer.write(network, state, meta_of(1))
        assert writer.saved is None
        with torch.no_grad():
            network.weight.add_(1)
            state["deep"][0]["moment"].add_(1)
        threading.Timer(0.1, go_on.set).start()
        writer.write(network, state, meta_of(2))
        assert writer.saved == 1
    assert writer.saved == 2 and not writer.failed
    saved = checkpoint.read_weights(first)
    assert all(torch.equal(saved[key], value) for key, value in weights.items())
    assert not torch.equal(checkpoint.read_weights(second)["weight"], weights["weight"])
    assert caplog.messages == [f"saved {first}", f"saved {second}"]
    assert checkpoint.load_training_state(first) is None  # one is kept
    assert checkpoint.load_training_state(second)["deep"][0]["moment"].tolist() == [1, 1, 1]


def test_the_state_is_copied_too(directory):
    state = {"deep": [{"moment": torch.zeros(3)}]}
    path = directory.snapshot(1)
    averages = {"weight": torch.zeros(2)}
    with SnapshotWriter(directory, keep=1) as writer:
        writer.write(nn.Linear(2, 2), state, meta_of(1), averages)
        state["deep"][0]["moment"].add_(1)
        averages["weight"].add_(1)
    assert checkpoint.load_training_state(path)["deep"][0]["moment"].tolist() == [0, 0, 0]
    assert checkpoint.read_weights(checkpoint.averaged_path(path))["weight"].tolist() == [0, 0]


def test_a_snapshot_that_cannot_be_written_is_a_line(directory, tmp_path, caplog):
    folder = directory.path
    network = nn.Linear(2, 2)
    with SnapshotWriter(directory, keep=1) as writer:
        writer.write(network, {}, meta_of(1))
        writer.wait()
        folder.rename(tmp_path / "elsewhere")
        folder.write_text("in the way")
        writer.write(network, {}, meta_of(2))
    assert writer.failed and writer.saved == 1
    (line,) = caplog.messages
    assert line.startswith("step 2 was not saved (FileExistsError")
    assert line.endswith("the newest snapshot is that of step 1")
    with writer:
        folder.unlink()
        writer.write(network, {}, meta_of(3))
    assert not writer.failed and writer.saved == 3
