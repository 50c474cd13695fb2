"""Which snapshots are whole, which keep their training state, and how they are written."""

import logging
import threading

import pytest
import torch
from torch import nn

from core.checkpoint import snapshot as checkpoint
from core.checkpoint.run_directory import (
    SnapshotWriter,
    damage,
    forget_training_states,
    latest_valid,
)
from core.checkpoint.snapshot import Meta, snapshot_path, training_path
from core.config.errors import UserError


def save(root, iteration, name="Tiny", state=True):
    path = snapshot_path(root, name, iteration)
    meta = Meta(name, iteration, ("cat",), {}, checkpoint.versions())
    training = {"steps": torch.arange(50)} if state else None
    checkpoint.save_snapshot(path, nn.Linear(3, 3), training, meta)
    return path


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE = {
    "weights altered": (flip_a_bit, "", "Tiny_2.pkl was cut short or altered"),
    "weights cut short": (cut_short, "", "Tiny_2.pkl was cut short"),
    "state altered": (flip_a_bit, ".train.pt", "Tiny_2.train.pt was cut short or altered"),
    "state deleted": (lambda path: path.unlink(), ".train.pt", "Tiny_2.train.pt is not there"),
    "description cut short": (cut_short, ".json", "does not describe a snapshot"),
    "description deleted": (lambda path: path.unlink(), ".json", "nothing beside it says"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_snapshot_is_passed_over_with_a_line(tmp_path, kind, caplog):
    before, newest = save(tmp_path, 1), save(tmp_path, 2)
    assert latest_valid(tmp_path, "Tiny") == 2
    spoil, ending, message = DAMAGE[kind]
    spoil(newest.with_suffix(ending or ".pkl"))
    assert latest_valid(tmp_path, "Tiny") == 1
    (line,) = caplog.messages
    assert line.startswith(f"{newest} is passed over: ") and message in line
    assert damage(before) is None


def test_weights_alone_are_not_resumed_from_silently(tmp_path, caplog):
    save(tmp_path, 1)
    save(tmp_path, 2, state=False)
    assert latest_valid(tmp_path, "Tiny") == 1
    assert "saved without a checksum of Tiny_2.train.pt" in caplog.text


def test_without_snapshots_a_run_starts_but_not_over_damaged_ones(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    assert latest_valid(tmp_path, "Tiny") is None
    assert caplog.messages == [
        f"there is no snapshot in {tmp_path}/nnet/Tiny to resume from: starting from step 1"
    ]
    cut_short(save(tmp_path, 2))
    with pytest.raises(UserError, match=r"no snapshot in .* is whole"):
        latest_valid(tmp_path, "Tiny")


def test_the_newest_keep_their_training_state(tmp_path):
    paths = {iteration: save(tmp_path, iteration) for iteration in (1, 2, 9, 10, 11, 30)}
    other = save(tmp_path, 1, "Tiny-other")
    forget_training_states(paths[11], keep=3)
    kept = [iteration for iteration, path in paths.items() if training_path(path).is_file()]
    assert kept == [9, 10, 11, 30]  # 30 was left by an earlier run
    assert all(path.is_file() for path in paths.values()) and training_path(other).is_file()
    assert damage(paths[2]) == "Tiny_2.train.pt is not there any more"


def meta_of(iteration):
    return Meta("Tiny", iteration, ("cat",), {}, checkpoint.versions())


def test_a_snapshot_is_what_it_was_when_its_writing_started(tmp_path, monkeypatch, caplog):
    """And the next waits for it."""
    caplog.set_level(logging.INFO)
    network, state = nn.Linear(2, 2), {"deep": [{"moment": torch.zeros(3)}], "steps": 1}
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    go_on, save_snapshot = threading.Event(), checkpoint.save_snapshot

    def slow(*given):
        assert go_on.wait(10)
        save_snapshot(*given)

    monkeypatch.setattr(checkpoint, "save_snapshot", slow)
    first, second = snapshot_path(tmp_path, "Tiny", 1), snapshot_path(tmp_path, "Tiny", 2)
    with SnapshotWriter(keep=1) as writer:
        writer.write(first, network, state, meta_of(1))
        assert writer.saved is None
        with torch.no_grad():
            network.weight.add_(1)
            state["deep"][0]["moment"].add_(1)
        threading.Timer(0.1, go_on.set).start()
        writer.write(second, network, state, meta_of(2))
        assert writer.saved == 1
    assert writer.saved == 2 and not writer.failed
    saved = checkpoint.read_weights(first)
    assert all(torch.equal(saved[key], value) for key, value in weights.items())
    assert not torch.equal(checkpoint.read_weights(second)["weight"], weights["weight"])
    assert caplog.messages == [f"saved {first}", f"saved {second}"]
    assert checkpoint.load_training_state(first) is None  # one is kept
    assert checkpoint.load_training_state(second)["deep"][0]["moment"].tolist() == [1, 1, 1]


def test_the_state_is_copied_too(tmp_path):
    state = {"deep": [{"moment": torch.zeros(3)}]}
    path = snapshot_path(tmp_path, "Tiny", 1)
    with SnapshotWriter(keep=1) as writer:
        writer.write(path, nn.Linear(2, 2), state, meta_of(1))
        state["deep"][0]["moment"].add_(1)
    assert checkpoint.load_training_state(path)["deep"][0]["moment"].tolist() == [0, 0, 0]


def test_a_snapshot_that_cannot_be_written_is_a_line(tmp_path, caplog):
    folder = tmp_path / "nnet" / "Tiny"
    network = nn.Linear(2, 2)
    with SnapshotWriter(keep=1) as writer:
        writer.write(snapshot_path(tmp_path, "Tiny", 1), network, {}, meta_of(1))
        writer.wait()
        folder.rename(tmp_path / "elsewhere")
        folder.write_text("in the way")
        writer.write(snapshot_path(tmp_path, "Tiny", 2), network, {}, meta_of(2))
    assert writer.failed and writer.saved == 1
    (line,) = caplog.messages
    assert line.startswith("step 2 was not saved (FileExistsError")
    assert line.endswith("the newest snapshot is that of step 1")
    with writer:
        folder.unlink()
        writer.write(snapshot_path(tmp_path, "Tiny", 3), network, {}, meta_of(3))
    assert not writer.failed and writer.saved == 3
