"""`cornerkit plan`: its numbers, its sources and its errors; the measurement of a step."""

import dataclasses
import json

import pytest
import torch

from core.config.errors import UserError
from core.config.loading import load_config
from core.tools import plan
from core.tools.plan import StepCost, measure_step, noise_batch
from core.training.memory_use import Peak
from core.training.step import train_step
from tests.support import tiny_models
from tests.support.engine_stand_in import SIDE, make_batch, state, system
from tests.support.model_builders import SMALL, small_detector
from tests.support.own_process import in_own_process, needs_account
from tests.support.tiny_models import LITE
from tests.support.tiny_training import NAME, write_config, write_training

GIB = 2**30
PUBLISHED = StepCost(
    images=5,
    flops=2 * 10**12,
    chunk_seconds=10.0,
    update_seconds=1.0,
    state_bytes=3 * GIB,
    activation_bytes=20 * GIB,
    available_bytes=80 * GIB,
)


def lines_of(monkeypatch, cost, *overrides, name="CornerNet"):
    """The plan of a config whose step costs this much; the network is not computed."""
    monkeypatch.setattr(plan, "measure_step", lambda *_: cost)
    model = ["model.stem_channels=[4, 4]", "model.channels=[4, 4]", "model.blocks=[1, 1]"]
    config = load_config(name, overrides=[*model, "system.data_dir=nowhere", *overrides])
    return list(plan.plan(config, torch.device("cpu"), 60))


def starting(lines, key):
    (line,) = (line for line in lines if line.split()[:1] == [key] or line.startswith(key))
    return " ".join(line.split())


def test_a_step_by_number_of_devices(monkeypatch):
    lines = lines_of(monkeypatch, PUBLISHED)
    start = lines.index("") + 2
    rows = [line.split() for line in lines[start:-1]]
    # 49 images in chunks of 4, 5, 5, …, at two seconds each, and one second for the update.
    assert [row[:3] for row in rows] == [
        ["1", "10", "99"],
        ["2", "5", "51"],
        ["4", "3", "31"],
        ["8", "2", "21"],
        ["10", "1", "11"],
    ]
    assert [row[3] for row in rows[:2]] == ["13,750.0", "7,083.3"]
    assert lines[-1].startswith("500,000 steps")


def test_one_device_computes_graphs_and_several_do_not(monkeypatch):
    lines = lines_of(monkeypatch, dataclasses.replace(PUBLISHED, graph_seconds=4.0))
    expected = "a chunk 5 images, 10 s; 4 s in a CUDA graph, on one device"
    assert starting(lines, "a chunk") == expected
    start = lines.index("") + 2
    assert [line.split()[2] for line in lines[start : start + 2]] == ["40.2", "51"]


def test_work_memory_and_what_fits(monkeypatch):
    lines = lines_of(monkeypatch, PUBLISHED)
    assert starting(lines, "a step") == (
        "a step 49 images in 10 chunks, forward and backward 9.8e+04 GFLOP (2,000 an image)"
    )
    assert starting(lines, "a chunk") == "a chunk 5 images, 10 s"
    assert "3.00 GiB of weights" in starting(lines, "memory")
    assert "20.00 GiB of activations" in starting(lines, "memory")
    assert starting(lines, "fits").startswith("fits 3 such chunks, 19 images, in 80.00 GiB;")
    assert not any(line.startswith("measured") for line in lines)


def test_what_does_not_fit(monkeypatch):
    cost = StepCost(**{**vars(PUBLISHED), "available_bytes": 15 * GIB})
    fits = starting(lines_of(monkeypatch, cost), "fits")
    assert fits.startswith("fits not in 15.00 GiB, where 3 images would; set smaller")


def test_a_chunk_that_is_computed_by_one_image(monkeypatch):
    cost = StepCost(**{**vars(PUBLISHED), "images": 1, "chunk_seconds": 2.0})
    lines = lines_of(monkeypatch, cost)
    assert "one image, as a chunk of 5" in starting(lines, "measured")
    assert starting(lines, "a chunk") == "a chunk 5 images, 10 s"
    assert "100.00 GiB of activations" in starting(lines, "memory")


def test_a_system_that_does_not_report_memory(monkeypatch):
    cost = StepCost(**{**vars(PUBLISHED), "activation_bytes": None})
    lines = lines_of(monkeypatch, cost)
    assert "does not report" in starting(lines, "memory")
    assert not any(line.startswith("fits") for line in lines)


def test_a_batch_without_chunks_is_split_evenly(monkeypatch):
    sizes = ["system.chunk_sizes=null", "system.batch_size=12"]
    lines = lines_of(monkeypatch, PUBLISHED, *sizes)
    start = lines.index("") + 2
    rows = [line.split()[:3] for line in lines[start:-1]]
    assert rows == [["1", "1", "25"], ["2", "1", "13"], ["4", "1", "7"]]


def test_the_command_on_a_dataset(tmp_path, capsys):
    write_training(tmp_path, chunk_sizes=[1, 2], checkpointing="stack")
    argv = [NAME, "--config-dir", str(tmp_path / "configs"), "--device", "cpu"]
    assert plan.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert starting(lines, "device") == ("device cpu, float32, not compiled, checkpointing: stack")
    assert "parameters" in starting(lines, "network")
    assert starting(lines, "images").startswith("images 63 x 63, 6 classes: ")
    assert starting(lines, "images").endswith("instances_train.json")
    assert starting(lines, "a step").startswith("a step 3 images in 2 chunks")
    assert [line.split()[:2] for line in lines[-3:-1]] == [["1", "2"], ["2", "1"]]
    assert float(starting(lines, "a chunk").split()[-2]) > 0


@pytest.mark.parametrize(("steps", "trains"), [(2, True), (None, False)])
def test_stages_that_are_frozen_for_some_steps_train(tmp_path, monkeypatch, steps, trains):
    """The steps after them are more, and take more memory."""
    found = []

    def note(state, batch, *_):
        train_step(state, batch, update=False)
        found.extend({x.grad is not None for x in s.parameters()} for s in state.detector.stages())
        return PUBLISHED

    monkeypatch.setattr(plan, "measure_step", note)
    tiny_models.write(tmp_path, LITE, frozen_stages=3, frozen_steps=steps)
    argv = [LITE, "--config-dir", str(tmp_path / "configs"), "--device", "cpu"]
    assert plan.main(argv) == 0
    assert found == [{trains}] * 3 + [{True}]


def test_without_a_dataset(tmp_path, capsys):
    write_config(tmp_path)
    argv = [NAME, "--config-dir", str(tmp_path / "configs"), "--device", "cpu", "--seconds", "0"]
    assert plan.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "80 classes: noise, as there is no folder" in starting(lines, "images")
    assert starting(lines, "measured")


def test_a_dataset_that_is_broken(tmp_path):
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


def measured(settings, seconds=60.0):
    """The stand-in after its step was measured, and the cost."""
    training = state(settings)
    return training, measure_step(training, make_batch(0), seconds)


def test_the_work_is_that_of_the_convolutions():
    cells = SIDE * SIDE
    first, last = 2 * cells * 4 * 27, 2 * cells * 4  # of one convolution's forward pass
    _, cost = measured(system())
    # Each has a gradient of its weights, and the last one also of its input.
    assert cost.flops == 2 * first + 3 * last


@pytest.mark.parametrize(("algorithm", "copies"), [("adam", 4), ("sgd", 3)])
def test_memory_of_the_state(algorithm, copies):
    training, cost = measured(system(opt_algo=algorithm))
    weights = [weight.nbytes for weight in training.network.parameters()]
    buffers = sum(buffer.nbytes for buffer in training.network.buffers())
    steps = 4 * len(weights) if algorithm == "adam" else 0
    assert cost.state_bytes == copies * sum(weights) + buffers + steps


def test_a_full_chunk_is_computed_where_there_is_time_and_memory(monkeypatch):
    for seconds, memory, images in ((60, 2**40, 4), (0, 2**40, 1), (60, 0, 1), (60, None, 4)):
        monkeypatch.setattr(plan, "_available_bytes", lambda *_, memory=memory: memory)
        _, cost = measured(system(), seconds)
        assert cost.images == images
        assert cost.chunk_seconds > 0 and cost.update_seconds > 0
        assert cost.available_bytes == memory


def test_memory_of_a_chunk_is_not_taken_for_that_of_the_optimizer(monkeypatch):
    """The state of Adam does not exist yet when one image is computed."""
    each, found = 1000, []

    class KnownPeak(Peak):
        def __exit__(self, *error):
            super().__exit__(*error)
            weights = sum(weight.nbytes for weight in training.network.parameters())
            buffers = sum(buffer.nbytes for buffer in training.network.buffers())
            self.bytes = 2 * weights + buffers + each  # with gradients

    monkeypatch.setattr(plan, "Peak", KnownPeak)
    for spare in (1, -1):
        training = state(system())
        _, cost = measured(system())
        memory = cost.state_bytes + 4 * each + spare
        monkeypatch.setattr(plan, "_available_bytes", lambda *_, memory=memory: memory)
        found.append(measure_step(training, make_batch(0), 60).images)
    assert found == [4, 1]


def test_a_chunk_in_a_graph(monkeypatch):
    sizes = []

    def choose(run):
        def step(batch, iteration):
            sizes.append((len(batch), run.config.system.batch_size, run.config.system.chunk_sizes))
            return 9.0 if len(sizes) <= 3 else 3.0  # seconds; the first ones record a graph

        return step

    monkeypatch.setattr(plan, "_seconds", lambda function, device: function() or 1.0)
    monkeypatch.setattr(plan, "choose_step", choose)
    assert measured(system())[1].graph_seconds is None and not sizes  # on a CPU
    monkeypatch.setattr("core.training.graphs.obstacle_to_graphs", lambda *_: None)
    assert measured(system(cuda_graph=False))[1].graph_seconds is None and not sizes
    _, cost = measured(system(chunk_sizes=(2, 2)))
    assert set(sizes) == {(4, 4, None)}
    assert cost.graph_seconds == 2.0  # without the update's second


def test_graphs_that_are_wanted_where_there_are_none(tmp_path):
    write_config(tmp_path)
    argv = [NAME, "--config-dir", str(tmp_path / "configs"), "--device", "cpu"]
    with pytest.raises(UserError, match=r"system\.cuda_graph"):
        plan.main([*argv, "--set", "system.cuda_graph=true"])


def test_gradients_of_the_chunk_before_are_in_memory_as_within_a_step(monkeypatch):
    """What the chunk takes on top of the state would be too little without them."""
    held = []

    def step(training, batch, update):
        held.append([weight.grad is not None for weight in training.network.parameters()])
        return train_step(training, batch, update=update)

    monkeypatch.setattr(plan, "train_step", step)
    training, _ = measured(system())
    sums = [weight.grad.abs().sum() for weight in training.network.parameters()]
    assert len(held) > 2 and all(map(all, held[1:])) and all(sums)


def test_a_device_without_memory_for_one_image(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more")

    monkeypatch.setattr(plan, "train_step", full)
    with pytest.raises(UserError, match=r"does not fit on cpu .*2 GiB\); set system.checkpointing"):
        measured(system())


@pytest.mark.parametrize("name", sorted(SMALL))
def test_images_of_noise_train_every_model(name):
    detector = small_detector(name)
    batch = noise_batch(detector.sample, 2, 3)
    assert len(batch) == 2 and batch.counts.sum() > 0
    assert batch.labels.max() < 3
    cost = measure_step(state(system(batch_size=2), detector), batch, 60)
    assert cost.images == 2 and cost.flops > 0


def peaks():
    """Bytes at the peak without 100 MB more, with them, and without them again."""
    with Peak(torch.device("cpu")) as before:
        pass
    with Peak(torch.device("cpu")) as large:
        torch.ones(25 * 2**20)
    with Peak(torch.device("cpu")) as after:
        pass
    return before.bytes, large.bytes, after.bytes


@needs_account
def test_the_peak_is_that_of_the_time_within():
    before, large, after = in_own_process(peaks)
    assert large - before > 90 * 2**20
    assert large - after > 90 * 2**20
