"""What a step costs: work that is known, memory that adds up, pictures for every model."""

import pytest
import torch

from core.config.errors import UserError
from core.tools import step_cost
from core.tools.step_cost import measure_step, synthetic_batch
from core.train.memory_use import Peak
from core.train.optimizer import build_optimizer
from tests.support.engine_stand_in import SIDE, make_batch, stand_in, system
from tests.support.model_builders import SMALL, small_detector
from tests.support.own_process import in_own_process, needs_account

CPU = torch.device("cpu")


def measured(settings, seconds=60.0, batch=None):
    detector = stand_in()
    optimizer = build_optimizer(detector.network.parameters(), settings.opt_algo, 0.01)
    batch = make_batch(0) if batch is None else batch
    return detector, measure_step(
        detector, optimizer, batch, settings, CPU, seconds=seconds, process_bytes=0
    )


def test_the_work_is_that_of_the_convolutions():
    cells = SIDE * SIDE
    first, last = 2 * cells * 4 * 27, 2 * cells * 4  # of one convolution's forward pass
    _, cost = measured(system())
    # Each has a gradient of its weights, and the last one of its input besides.
    assert cost.flops == 2 * first + 3 * last


@pytest.mark.parametrize(("algorithm", "copies"), [("adam", 4), ("sgd", 3)])
def test_memory_of_the_state(algorithm, copies):
    detector, cost = measured(system(opt_algo=algorithm))
    weights = [weight.nbytes for weight in detector.network.parameters()]
    buffers = sum(buffer.nbytes for buffer in detector.network.buffers())
    steps = 4 * len(weights) if algorithm == "adam" else 0
    assert cost.state_bytes == copies * sum(weights) + buffers + steps


def test_the_whole_chunk_is_computed_where_there_is_time_and_room(monkeypatch):
    for seconds, room, pictures in ((60, 2**40, 4), (0, 2**40, 1), (60, 0, 1), (60, None, 4)):
        monkeypatch.setattr(step_cost, "_room_bytes", lambda *_, room=room: room)
        _, cost = measured(system(), seconds)
        assert cost.pictures == pictures
        assert cost.chunk_seconds > 0 and cost.update_seconds > 0
        assert cost.room_bytes == room


def test_a_device_without_room_for_one_picture(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more")

    monkeypatch.setattr(step_cost, "add_gradients_", full)
    with pytest.raises(UserError, match=r"does not fit on cpu .*2 GiB\); set system.checkpointing"):
        measured(system())


@pytest.mark.parametrize("name", sorted(SMALL))
def test_synthetic_pictures_train_every_model(name):
    detector = small_detector(name)
    batch = synthetic_batch(detector.sample, 2, 3)
    assert len(batch) == 2 and batch.counts.sum() > 0
    assert batch.labels.max() < 3
    optimizer = build_optimizer(detector.network.parameters(), "adam", 0.01)
    settings = system(batch_size=2)
    cost = measure_step(detector, optimizer, batch, settings, CPU, seconds=60, process_bytes=0)
    assert cost.pictures == 2 and cost.flops > 0


def peaks():
    """Bytes at the peak without 100 MB more, with them, and without them again."""
    with Peak(CPU) as before:
        pass
    with Peak(CPU) as large:
        torch.ones(25 * 2**20)
    with Peak(CPU) as after:
        pass
    return before.bytes, large.bytes, after.bytes


@needs_account
def test_the_peak_is_that_of_the_time_within():
    before, large, after = in_own_process(peaks)
    assert large - before > 90 * 2**20
    assert large - after > 90 * 2**20
