"""Steps as CUDA graphs, by a recorder that computes on the CPU what a graph would on a GPU."""

import copy
import gc
import logging
import warnings
import weakref
from dataclasses import replace

import pytest
import torch

from core.config.errors import UserError
from core.distributed import ONE_PROCESS
from core.tools.plan import noise_batch
from core.torch_compat import tensors_in
from core.training.graphs import (
    CudaGraphs,
    StepGraphs,
    choose_step,
    obstacle_to_graphs,
    pad_objects,
    padded_objects,
)
from core.training.optimizer import build_optimizer, load_optimizer_state_, set_learning_rate_
from core.training.step import train_step
from tests.support.engine_stand_in import make_batch, stand_in, state, system
from tests.support.model_builders import SMALL, detector_that_finds

RECIPE = {"chunk_sizes": (3, 1), "ema": 0.9, "clip_norm": 0.5, "opt_algo": "adamw"}
ON_A_GPU = ["CornerNet", "CornerNet_Saccade", "CenterNet", "CornerNet-lite", "CornerNet_Lite0"]


class Recorder:
    """Computes in a replay what was recorded, and writes the results where a graph writes them.

    Attributes:
        rehearsed, recorded, replayed: numbers of calls.
    """

    def __init__(self, run):
        self._run = run
        self.rehearsed = self.recorded = self.replayed = 0

    def rehearse(self, function):
        self.rehearsed += 1
        return function()

    def record(self, function):
        self.recorded += 1
        network, optimizer = self._run.network, self._run.optimizer
        before = copy.deepcopy((network.state_dict(), optimizer.state_dict()))
        terms, norm = function()  # for the memory of the results
        network.load_state_dict(before[0])
        optimizer.load_state_dict(before[1])

        def replay():
            self.replayed += 1
            new_terms, new_norm = function()
            norm.copy_(new_norm)
            for name, value in new_terms.items():
                terms[name].copy_(value)

        return replay, (terms, norm)


def objects_batch(number, objects, size=4):
    """A batch with so many objects in each image."""
    rows = [make_batch(number * size + row, 1) for row in range(size)]
    many = [pad_objects(row, objects) for row in rows]
    batch = replace(many[0], index=torch.arange(size))
    joined = {
        name: torch.cat([getattr(row, name) for row in many])
        for name in ("images", "boxes", "labels", "counts", "color")
    }
    return replace(batch, **joined)


def trained(run, step, batches):
    """Numbers of all steps, then all weights, averages and optimizer values."""
    numbers = []
    for iteration, batch in enumerate(batches, 1):
        set_learning_rate_(run.optimizer, iteration, run.config.system)
        terms, norm = step(batch, iteration)
        numbers.append([float(value) for value in (*terms.values(), norm)])
    return numbers, run.network.state_dict(), run.average.state_dict(), run.optimizer.state_dict()


def test_graphs_train_as_steps_do():
    """Several chunks, a changing learning rate, clipping, an average; padded in the same way."""
    batches = [objects_batch(number, 2 + number) for number in range(7)]
    settings = system(**RECIPE)
    plain = state(settings)
    padded = [pad_objects(batch, 16) for batch in batches]
    expected = trained(plain, lambda batch, number: train_step(plain, batch, number), padded)
    run = state(settings)
    recorder = Recorder(run)
    found = trained(run, StepGraphs(run, recorder).step, batches)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert (recorder.rehearsed, recorder.recorded, recorder.replayed) == (2, 1, 5)
    assert run.average.steps == 7


@pytest.mark.parametrize("name", ["CornerNet", "CornerNet_Saccade", "CenterNet", "CornerNet-lite"])
def test_padding_changes_no_loss(name):
    detector = detector_that_finds(name)
    run = state(system(batch_size=3), detector)
    batch = noise_batch(detector.sample, 3, 3)
    first = copy.deepcopy(detector.network.state_dict())
    terms, norm = train_step(run, batch, update=False)
    detector.network.load_state_dict(first)
    run.optimizer.zero_grad()
    padded_terms, padded_norm = train_step(run, pad_objects(batch, 64), update=False)
    torch.testing.assert_close((padded_terms, padded_norm), (terms, norm), rtol=1e-5, atol=1e-6)


def test_a_graph_for_each_size():
    """Of images, which are rehearsed, and of padded objects, which are not."""
    run = state(system())
    recorder = Recorder(run)
    step = StepGraphs(run, recorder).step
    for number, objects in enumerate([2, 16, 5, 17, 30, 16, 32, 33]):
        step(objects_batch(number, objects), number + 1)
    assert (recorder.rehearsed, recorder.recorded, recorder.replayed) == (2, 3, 6)
    wide = objects_batch(9, 3)
    wide = replace(wide, images=torch.cat((wide.images, wide.images), 3))
    for number in range(3):
        step(wide, number + 9)
    assert (recorder.rehearsed, recorder.recorded, recorder.replayed) == (4, 4, 7)


def test_too_many_sizes_are_computed_without_a_graph(monkeypatch):
    monkeypatch.setattr("core.training.graphs._MOST_GRAPHS", 1)
    run = state(system())
    recorder = Recorder(run)
    step = StepGraphs(run, recorder).step
    for number, objects in enumerate([2, 2, 2, 20, 2, 20]):
        step(objects_batch(number, objects), number + 1)
    assert (recorder.recorded, recorder.replayed) == (1, 2)


def test_other_stages_are_recorded_anew():
    run = state(system(frozen_stages=1, frozen_steps=4))
    recorder = Recorder(run)
    step = StepGraphs(run, recorder).step
    for number in range(8):
        step(make_batch(number), number + 1)
    assert (recorder.rehearsed, recorder.recorded, recorder.replayed) == (4, 2, 4)


@pytest.mark.parametrize("error", [RuntimeError("not permitted\nwhen"), torch.OutOfMemoryError()])
def test_a_step_that_cannot_be_recorded_is_computed(error, caplog):
    class Failing(Recorder):
        def record(self, function):
            self.recorded += 1
            raise error

    plain, run = state(system(**RECIPE)), state(system(**RECIPE))
    batches = [objects_batch(number, 16) for number in range(5)]
    expected = trained(plain, lambda batch, number: train_step(plain, batch, number), batches)
    recorder = Failing(run)
    with caplog.at_level(logging.WARNING):
        found = trained(run, StepGraphs(run, recorder).step, batches)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert recorder.recorded == 1
    (line,) = caplog.messages
    assert line.startswith("system.cuda_graph: training goes on without it") and "\n" not in line


def test_a_recording_that_failed_keeps_no_tensors():
    """Of the step that failed, when the steps go on: they need the memory."""

    class Failing(Recorder):
        def record(self, function):
            return function, function()

    outputs, alive = [], []
    detector = stand_in()

    def losses(maps, target):
        alive.append([other() is not None for other in outputs])
        outputs.append(weakref.ref(maps[0]))
        if len(outputs) == 3:
            raise RuntimeError("not permitted")
        return detector.losses(maps, target)

    run = state(system(), replace(detector, losses=losses))
    step = StepGraphs(run, Failing(run)).step
    for number in range(3):
        step(make_batch(number), number + 1)
    assert [len(before) for before in alive] == [0, 1, 2, 3] and not any(alive[3])


def test_what_is_refused_and_what_is_chosen():
    detector, cuda = stand_in(), torch.device("cuda", 0)
    two = replace(ONE_PROCESS, world_size=2)
    assert obstacle_to_graphs(detector, cuda, ONE_PROCESS) is None
    assert "several processes" in obstacle_to_graphs(detector, cuda, two)
    assert "waits" in obstacle_to_graphs(replace(detector, static_step=False), cuda, ONE_PROCESS)
    with pytest.raises(UserError, match=r"^system.cuda_graph: the device cpu has no CUDA graphs"):
        choose_step(state(system(cuda_graph=True)))
    for setting in (None, False):
        run = state(system(cuda_graph=setting))
        assert choose_step(run).func is train_step


@pytest.mark.parametrize("name", sorted(SMALL))
def test_every_detector_but_faster_r_cnn_has_steps_of_one_shape(name):
    assert detector_that_finds(name).static_step == (not name.startswith("FasterRCNN"))


@pytest.mark.parametrize(("objects", "padded"), [(2, 16), (16, 16), (17, 32), (64, 64), (93, 128)])
def test_objects_are_padded_to_powers_of_two(objects, padded):
    assert padded_objects(objects) == padded
    batch = pad_objects(objects_batch(0, objects), padded)
    assert batch.boxes.shape == (4, padded, 4) and batch.counts.tolist() == [1] * 4
    assert not batch.boxes[:, objects:].any() and batch.usable is None


def test_the_log_keeps_the_numbers_of_a_step_that_the_next_one_overwrites():
    """As the training loop reads them: after the next step was queued."""
    from core.training.late_report import LateReport

    lines = []
    log = type("Log", (), {"step": lambda self, step: lines.append(step)})()
    report = LateReport(log, None, torch.device("cpu"))
    terms, norm = {"map": torch.zeros(())}, torch.zeros(())
    for number in (1, 2, 3):
        report.step(number, terms, norm, 0.1, torch.arange(2))
        terms["map"].fill_(number)  # by the replay of the next step
        norm.fill_(number)
    report.flush()
    assert [line.terms["map"] for line in lines] == [0, 1, 2]


def tensors_of(run):
    """All that a step changes, in the memory that it changes."""
    own = run.network.state_dict(), run.average.state_dict(), run.optimizer.state_dict()
    return tensors_in(own)


def weights_of(run):
    """Weights, running statistics and their averages, each as one vector."""
    parts = run.network.parameters(), run.network.buffers(), run.average.state_dict().values()
    return [torch.cat([x.detach().flatten().double() for x in part]) for part in parts]


def assert_steps_are_equal(run, twin, step, batches):
    """Steps of a run and those of its twin by ``step``, each from the same weights.

    Rounding grows by a thousand times from step to step in networks this small; within a step it
    changes little, but for weights whose gradient is nothing else.
    """
    for iteration, batch in enumerate(batches, 1):
        before = weights_of(run)
        for one in (run, twin):
            set_learning_rate_(one.optimizer, iteration, one.config.system)
        expected, found = train_step(run, batch, iteration), step(batch, iteration)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        for old, new, own in zip(before, weights_of(run), weights_of(twin), strict=True):
            assert (new - old).norm() > 0
            assert (own - new).norm() < 0.2 * (new - old).norm()
        for own, value in zip(tensors_of(twin), tensors_of(run), strict=True):
            own.copy_(value)


def gpu_run(settings, detector=None):
    detector = detector or stand_in()
    device = torch.device("cuda")
    detector.network.to(device)
    optimizer = build_optimizer(detector.network.parameters(), settings.opt_algo, 0.01)
    return state(settings, detector, optimizer, device=device)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("algorithm", ["adam", "sgd", "adamw"])
@pytest.mark.parametrize("name", ON_A_GPU)
def test_on_a_gpu(name, algorithm, precision, caplog):
    """Graphs equal steps over several chunks, with other images in each step."""
    settings = system(**{**RECIPE, "opt_algo": algorithm, "precision": precision})
    run, twin = (gpu_run(settings, detector_that_finds(name)) for _ in range(2))
    batch = pad_objects(noise_batch(run.detector.sample, 4, 3), 16)
    batches = [replace(batch, images=batch.images.roll(5 * n, -1)).pin_memory() for n in range(6)]
    with caplog.at_level(logging.WARNING):
        assert_steps_are_equal(run, twin, StepGraphs(twin, CudaGraphs()).step, batches)
    assert not caplog.messages


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_sizes_and_stages_on_a_gpu(caplog):
    """Several graphs that take turns, and new ones from the step on in which others train."""
    settings = system(**RECIPE, frozen_stages=1, frozen_steps=8)
    run, twin = (gpu_run(settings, detector_that_finds("CornerNet-lite")) for _ in range(2))
    batch = noise_batch(run.detector.sample, 4, 3)
    objects = [16, 16, 16, 32, 16, 64, 32, 16, 32, 16, 16, 64, 32, 16]
    batches = [
        replace(pad_objects(batch, count), images=batch.images.roll(5 * number, -1))
        for number, count in enumerate(objects)
    ]
    with caplog.at_level(logging.WARNING):
        assert_steps_are_equal(run, twin, StepGraphs(twin, CudaGraphs()).step, batches)
    assert not caplog.messages


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_training_goes_on_after_a_recording_that_failed_on_a_gpu(caplog):
    """Without the tensors of the step that failed; and other steps are recorded."""
    detector = stand_in()

    def losses(outputs, target):
        if torch.cuda.is_current_stream_capturing():
            outputs[0].sum().item()
        return detector.losses(outputs, target)

    run = gpu_run(system(**RECIPE))
    twin = gpu_run(system(**RECIPE), replace(detector, losses=losses))
    batches = [objects_batch(number, 2) for number in range(6)]
    with caplog.at_level(logging.WARNING), warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*AccumulateGrad")
        assert_steps_are_equal(run, twin, StepGraphs(twin, CudaGraphs()).step, batches)
        (line,) = caplog.messages
        assert "not permitted when stream is capturing" in line
        assert torch.rand(2, device="cuda").sum() > 0
        twin = replace(twin, detector=detector)
        assert_steps_are_equal(run, twin, StepGraphs(twin, CudaGraphs()).step, batches)
    assert len(caplog.messages) == 1


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_recording_that_fails_on_a_gpu_leaves_no_trace():
    """Random numbers are those without it, and its memory is free again."""
    recorder = CudaGraphs()

    def draw():
        return {}, torch.rand(3, device="cuda")

    def wait():
        return {}, torch.rand(2**26, device="cuda").sum().item()

    torch.manual_seed(0)
    expected = [recorder.rehearse(draw)[1] for _ in range(3)]
    torch.manual_seed(0)
    found = [recorder.rehearse(draw)[1]]
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    with pytest.raises(RuntimeError):
        recorder.record(wait)
    found.append(draw()[1])
    gc.collect()
    torch.cuda.empty_cache()
    if torch.__version__ < "2.12":  # as of then PyTorch has to do it, which not all versions do
        assert torch.cuda.memory_reserved() <= before + 2**22
    replay, (_, drawn) = recorder.record(draw)
    replay()
    torch.testing.assert_close([*found, drawn], expected, rtol=0, atol=0)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("algorithm", ["adam", "sgd", "adamw"])
def test_an_optimizer_goes_on_from_a_gpu_to_the_cpu_and_back(algorithm):
    weights = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3, device="cuda"))
    here, there = (build_optimizer([weight], algorithm, 0.1) for weight in weights)
    for first, second in ((here, there), (there, here)):
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        first.step()
        load_optimizer_state_(second, copy.deepcopy(first.state_dict()))
        set_learning_rate_(second, 1, system())
        second.step()
        assert float(second.param_groups[0]["lr"]) == pytest.approx(0.01)
