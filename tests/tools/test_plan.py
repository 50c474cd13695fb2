"""python -m core.tools.plan: its numbers, its sources, its errors."""

import json

import pytest
import torch

from core.config.errors import UserError
from core.config.loading import load_config
from core.tools import plan
from core.tools.step_cost import StepCost
from tests.support.model_builders import SMALL
from tests.support.tiny_training import NAME, write_config, write_training

GIB = 2**30
PUBLISHED = StepCost(
    pictures=5,
    flops=2 * 10**12,
    chunk_seconds=10.0,
    update_seconds=1.0,
    state_bytes=3 * GIB,
    activation_bytes=20 * GIB,
    room_bytes=80 * GIB,
)


def lines_of(monkeypatch, cost, *overrides, name="CornerNet"):
    """The plan of a config for what a step is said to cost; the network is not computed."""
    monkeypatch.setattr(plan, "measure_step", lambda *_, **__: cost)
    model = ["model.stem_channels=[4, 4]", "model.channels=[4, 4]", "model.blocks=[1, 1]"]
    config = load_config(name, overrides=[*model, "system.data_dir=nowhere", *overrides])
    return list(plan.plan(config, torch.device("cpu"), 60))


def starting(lines, word):
    (line,) = (line for line in lines if line.split()[:1] == [word] or line.startswith(word))
    return " ".join(line.split())


def test_a_step_by_number_of_devices(monkeypatch):
    lines = lines_of(monkeypatch, PUBLISHED)
    start = lines.index("") + 2
    rows = [line.split() for line in lines[start:-1]]
    # 49 pictures in chunks of 4, 5, 5, …, at two seconds each, and one second for the update.
    assert [row[:3] for row in rows] == [
        ["1", "10", "99"],
        ["2", "5", "51"],
        ["4", "3", "31"],
        ["8", "2", "21"],
        ["10", "1", "11"],
    ]
    assert [row[3] for row in rows[:2]] == ["13,750.0", "7,083.3"]
    assert lines[-1].startswith("500,000 steps")


def test_work_memory_and_what_fits(monkeypatch):
    lines = lines_of(monkeypatch, PUBLISHED)
    assert starting(lines, "a step") == (
        "a step 49 pictures in 10 chunks, forward and backward 9.8e+04 GFLOP (2,000 a picture)"
    )
    assert starting(lines, "a chunk") == "a chunk 5 pictures, 10 s"
    assert "3.00 GiB of weights" in starting(lines, "memory")
    assert "20.00 GiB of activations" in starting(lines, "memory")
    assert starting(lines, "fits").startswith("fits 3 such chunks, 19 pictures, in 80.00 GiB;")
    assert not any(line.startswith("measured") for line in lines)


def test_what_does_not_fit(monkeypatch):
    cost = StepCost(**{**vars(PUBLISHED), "room_bytes": 15 * GIB})
    fits = starting(lines_of(monkeypatch, cost), "fits")
    assert fits.startswith("fits not in 15.00 GiB, where 3 pictures would; set smaller")


def test_one_picture_stands_for_a_chunk(monkeypatch):
    cost = StepCost(**{**vars(PUBLISHED), "pictures": 1, "chunk_seconds": 2.0})
    lines = lines_of(monkeypatch, cost)
    assert "one picture, as a chunk of 5" in starting(lines, "measured")
    assert starting(lines, "a chunk") == "a chunk 5 pictures, 10 s"
    assert "100.00 GiB of activations" in starting(lines, "memory")


def test_a_system_that_does_not_tell_its_memory(monkeypatch):
    cost = StepCost(**{**vars(PUBLISHED), "activation_bytes": None})
    lines = lines_of(monkeypatch, cost)
    assert "does not tell" in starting(lines, "memory")
    assert not any(line.startswith("fits") for line in lines)


def test_a_batch_without_chunks_is_split_evenly(monkeypatch):
    sizes = ["system.chunk_sizes=null", "system.batch_size=12"]
    lines = lines_of(monkeypatch, PUBLISHED, *sizes)
    start = lines.index("") + 2
    rows = [line.split()[:3] for line in lines[start:-1]]
    assert rows == [["1", "1", "25"], ["2", "1", "13"], ["4", "1", "7"]]


def test_the_command_on_a_data_set(tmp_path, capsys):
    write_training(tmp_path, chunk_sizes=[1, 2], checkpointing="stack")
    words = [NAME, "--config-dir", str(tmp_path / "configs"), "--device", "cpu"]
    assert plan.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert starting(lines, "device") == ("device cpu, float32, not compiled, checkpointing: stack")
    assert "parameters" in starting(lines, "network")
    assert starting(lines, "pictures").startswith("pictures 63 x 63, 6 classes: ")
    assert starting(lines, "pictures").endswith("instances_train.json")
    assert starting(lines, "a step").startswith("a step 3 pictures in 2 chunks")
    assert [line.split()[:2] for line in lines[-3:-1]] == [["1", "2"], ["2", "1"]]
    assert float(starting(lines, "a chunk").split()[-2]) > 0


def test_without_a_data_set(tmp_path, capsys):
    write_config(tmp_path)
    words = [NAME, "--config-dir", str(tmp_path / "configs"), "--device", "cpu", "--seconds", "0"]
    assert plan.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "80 classes: noise, as there is no folder" in starting(lines, "pictures")
    assert starting(lines, "measured")


def test_a_data_set_that_is_broken(tmp_path):
    write_config(tmp_path)
    (tmp_path / "data" / "shapes").mkdir(parents=True)
    with pytest.raises(UserError, match=r"there is no folder .*annotations"):
        plan.main([NAME, "--config-dir", str(tmp_path / "configs")])


def test_a_setting_that_does_not_fit_the_network(tmp_path):
    content = {"system": {"data_dir": str(tmp_path), "checkpointing": "stack"}}
    content["model"] = SMALL["FasterRCNN"]
    (tmp_path / "FasterRCNN-x.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"system\.checkpointing"):
        plan.main([str(tmp_path / "FasterRCNN-x.json"), "--device", "cpu"])
