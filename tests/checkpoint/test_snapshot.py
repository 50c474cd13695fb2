"""Snapshots: round trip, the reference's format, atomic writing, and every kind of bad file."""

import dataclasses
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from core.checkpoint import snapshot as checkpoint
from core.checkpoint.run_directory import RunDirectory
from core.checkpoint.snapshot import Meta
from core.config.errors import UserError


class Network(nn.Module):
    """A body that every class count shares, and a head that depends on it."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.heads = nn.ModuleList([nn.Conv2d(4, classes, 1)])


HEADS = ("heads.0",)
META = Meta("Tiny", 7, ("cat", "dog", "hen"), {"system": {"seed": 1}}, checkpoint.versions())


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Network]:
    """A snapshot of iteration 7 and the network it is of."""
    network = Network()
    path = RunDirectory(tmp_path, "Tiny").snapshot(7)
    checkpoint.save_snapshot(path, network, {"iteration": 7, "rng": torch.arange(9)}, META)
    return path, network


def test_round_trip(saved, tmp_path):
    path, network = saved
    assert path == tmp_path / "nnet" / "Tiny" / "Tiny_7.pkl"
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "Tiny_7.json",
        "Tiny_7.pkl",
        "Tiny_7.train.pt",
    ]
    other = Network()
    assert checkpoint.load_weights(other, path, HEADS) == []
    for key, value in network.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key
    assert checkpoint.read_meta(path) == META
    state = checkpoint.load_training_state(path)
    assert state is not None
    assert state["iteration"] == 7
    assert torch.equal(state["rng"], torch.arange(9))


def test_weights_are_a_bare_state_dict_with_the_references_keys(saved):
    path, network = saved
    weights = torch.load(path, weights_only=True)
    assert list(weights) == [f"module.{key}" for key in network.state_dict()]


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("form", ["module.", "bare", "CenterNet"])
def test_foreign_weights(tmp_path, form, zipped):
    network, path = Network(), tmp_path / "foreign.pth"
    weights = dict(network.state_dict())
    if form == "module.":
        weights = {f"module.{key}": value for key, value in weights.items()}
    content = {"epoch": 140, "state_dict": weights} if form == "CenterNet" else weights
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    other = Network()
    assert checkpoint.load_weights(other, path, HEADS) == []
    assert torch.equal(other.body[0].weight, network.body[0].weight)
    assert checkpoint.read_meta(path) is None
    assert checkpoint.load_training_state(path) is None


def test_averaged_weights_are_a_file_of_their_own(saved):
    path, network = saved
    averages = Network().state_dict()
    checkpoint.save_snapshot(
        path, network, {}, dataclasses.replace(META, averaged_steps=5), averages
    )
    file = checkpoint.averaged_path(path)
    assert file.name == "Tiny_7.ema.pkl" and checkpoint.has_averaged_weights(path)
    assert list(torch.load(file, weights_only=True)) == [f"module.{key}" for key in averages]
    for key, value in checkpoint.read_weights(file).items():
        assert torch.equal(value, averages[key]), key
    for key, value in checkpoint.read_weights(path).items():
        assert torch.equal(value, network.state_dict()[key]), key
    content = json.loads(path.with_suffix(".json").read_text())
    assert set(content["sha256"]) == {".pkl", ".ema.pkl", ".train.pt"}
    assert checkpoint.read_meta(file) == checkpoint.read_meta(path)
    assert checkpoint.read_meta(file).averaged_steps == 5
    for paths in (checkpoint.meta_path, checkpoint.training_path, checkpoint.averaged_path):
        assert paths(file) == paths(path)
    with pytest.raises(UserError, match=r"no snapshot .*Tiny_8\.ema\.pkl.*iterations 7$"):
        checkpoint.read_weights(path.with_name("Tiny_8.ema.pkl"))


def test_a_snapshot_without_averaged_weights_leaves_none_of_an_earlier_run(saved):
    path, network = saved
    checkpoint.save_snapshot(path, network, {}, META, network.state_dict())
    checkpoint.save_snapshot(path, network, {}, META)
    assert not checkpoint.has_averaged_weights(path)
    assert not checkpoint.averaged_path(path).exists()


def test_averaged_weights_that_no_description_names_are_none_of_the_snapshot(saved):
    path, _ = saved
    checkpoint.averaged_path(path).write_bytes(path.read_bytes())
    assert not checkpoint.has_averaged_weights(path)
    assert checkpoint.corruption(path) is None


def test_a_failed_write_keeps_the_old_snapshot(saved, monkeypatch):
    path, network = saved
    averages = network.state_dict()
    checkpoint.save_snapshot(path, network, {}, META, averages)
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    calls = []

    def full_disk(content, file):
        calls.append(content)
        file.write(b"half")
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save_snapshot(path, Network(), {}, META, averages)
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before


def test_weights_take_their_place_last(saved, monkeypatch):
    path, _ = saved
    order = []
    replace = os.replace

    def record(source, target):
        if not Path(target).name.startswith("."):  # not on its way from its place
            order.append((Path(target), path.exists()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", record)
    checkpoint.save_snapshot(path, Network(), {}, META, Network().state_dict())
    # The old weights are gone before the files that belong to the new ones come.
    assert [there for _, there in order] == [False] * 4
    assert order[-1][0] == path


def test_another_class_count_is_an_error_unless_fine_tuning(saved):
    path, network = saved
    other = Network(classes=5)
    fresh = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(UserError, match=r"Tiny, 3 classes.*2 of another shape.*--weights"):
        checkpoint.load_weights(other, path, HEADS)
    assert all(torch.equal(fresh[key], value) for key, value in other.state_dict().items())
    left = checkpoint.load_weights(other, path, HEADS, fine_tune=True)
    assert left == ["heads.0.weight", "heads.0.bias"]
    assert torch.equal(other.heads[0].weight, fresh["heads.0.weight"])
    assert torch.equal(other.body[0].weight, network.body[0].weight)


@pytest.mark.parametrize("fine_tune", [False, True])
def test_another_model_is_an_error_that_lists_the_differences(saved, fine_tune):
    path, _ = saved
    other = Network()
    other.body = nn.Sequential(nn.Conv2d(3, 6, 3))
    other.extra = nn.Linear(2, 2)
    with pytest.raises(UserError) as caught:
        checkpoint.load_weights(other, path, HEADS, fine_tune)
    message = str(caught.value)
    assert "2 missing: extra.weight, extra.bias" in message
    assert "5 unexpected: body.1.weight, body.1.bias, body.1.running_mean, …" in message
    assert "2 of another shape: body.0.weight 4x3x3x3 instead of 6x3x3x3" in message
    assert "\n" not in message


def test_missing_snapshot_lists_those_there_are(saved):
    path, _ = saved
    with pytest.raises(UserError, match=r"no snapshot .*Tiny_8\.pkl.*iterations 7$"):
        checkpoint.read_weights(path.with_name("Tiny_8.pkl"))
    with pytest.raises(UserError, match="there is none"):
        checkpoint.read_weights(path.parent / "elsewhere" / "Tiny_8.pkl")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("part", [0, 0.001, 0.02, 0.1, 0.5, 0.9, 0.999])
def test_cut_short(tmp_path, part, zipped):
    path = tmp_path / "Tiny_1.pkl"
    torch.save(Network().state_dict(), path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    # Cut within a global's name, what is left is another global: refused as well.
    with pytest.raises(UserError, match=r"cut short|refused") as caught:
        checkpoint.read_weights(path)
    assert "\n" not in str(caught.value)


class Code:
    """Unpickled carelessly, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("writer", ["pickle", "torch", "before torch 1.6"])
@pytest.mark.parametrize("reader", ["weights", "training state"])
def test_code_in_a_pickle_is_refused(tmp_path, writer, reader):
    path, mark = tmp_path / "Tiny_1.pkl", tmp_path / "mark"
    file = path if reader == "weights" else tmp_path / "Tiny_1.train.pt"
    content = {"module.a": torch.zeros(1), "b": Code(mark)}
    if writer == "pickle":
        file.write_bytes(pickle.dumps(Code(mark)))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=writer == "torch")
    read = checkpoint.read_weights if reader == "weights" else checkpoint.load_training_state
    with pytest.raises(UserError, match="refused") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(2)])
def test_no_weights_in_the_file(tmp_path, content):
    torch.save(content, tmp_path / "a.pkl")
    with pytest.raises(UserError, match="no weights"):
        checkpoint.read_weights(tmp_path / "a.pkl")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "Tiny"}', json.dumps({"classes": 3})])
def test_a_broken_description_is_a_mistake_not_a_crash(saved, text):
    path, _ = saved
    path.with_suffix(".json").write_text(text)
    with pytest.raises(UserError, match=r"Tiny_7\.json does not describe"):
        checkpoint.read_meta(path)


def test_metrics_are_read_from_old_files_too(saved):
    """Whose key for them is ``figures``."""
    path, network = saved
    meta = dataclasses.replace(META, metrics={"AP": 0.5})
    checkpoint.save_snapshot(path, network, None, meta)
    content = json.loads(path.with_suffix(".json").read_text())
    assert content["metrics"] == {"AP": 0.5}
    content["figures"] = content.pop("metrics")
    path.with_suffix(".json").write_text(json.dumps(content))
    assert checkpoint.read_meta(path) == meta


def test_text_is_no_snapshot(tmp_path):
    (tmp_path / "a.pkl").write_text("hello, this is not a snapshot")
    with pytest.raises(UserError, match="not a snapshot"):
        checkpoint.read_weights(tmp_path / "a.pkl")


@pytest.mark.parametrize(
    ("name", "iteration"),
    [
        ("CornerNet_500000.pkl", 500000),
        ("CornerNet_500000.ema.pkl", 500000),
        ("a-b_7.pkl", 7),
        ("a_best.pkl", None),
        ("a7.pkl", None),
    ],
)
def test_the_iteration_in_a_file_s_name(name, iteration):
    assert checkpoint.iteration_in_name(Path("folder_3", name)) == iteration
