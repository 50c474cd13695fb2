"""The training loop: steps by chunks, schedule, resume, validation, precision."""

import copy
import itertools
import time

import pytest
import torch
from torch import nn

from core.data.color import apply_color
from core.training.optimizer import build_optimizer, learning_rate_at, set_learning_rate_
from core.training.step import frozen_running_statistics, train_step, validate
from tests.support.engine_stand_in import (
    make_batch,
    stand_in,
    stand_in_run,
    state,
    stream,
    system,
    train_stand_in,
)


def run(folder, settings, **more):
    """Trains, and returns the snapshots as (iteration, weights, optimizer) and the log's lines."""
    run = stand_in_run(folder, settings, **more)
    lines = train_stand_in(folder, run)
    return run.saved, lines


def losses(lines):
    return [(line["iteration"], line["loss"], line["terms"]) for line in lines if "loss" in line]


@pytest.mark.parametrize("algorithm", ["adam", "sgd"])
@pytest.mark.parametrize("chunk_sizes", [None, (1, 3)])
def test_a_resumed_run_is_a_run_that_never_stopped(tmp_path, algorithm, chunk_sizes):
    settings = system(opt_algo=algorithm, snapshot=3, chunk_sizes=chunk_sizes)
    whole, lines = run(tmp_path / "whole", settings)
    assert [snapshot[0] for snapshot in whole] == [3, 6]
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4, 5, 6]

    resumed = stand_in_run(tmp_path / "rest", settings, start=3)
    _, weights, optimizer_state, _ = whole[0]
    resumed.detector.network.load_state_dict(weights)
    resumed.optimizer.load_state_dict(optimizer_state)
    rest_lines, rest = train_stand_in(tmp_path / "rest", resumed), resumed.saved
    assert losses(rest_lines) == losses(lines)[3:]
    for key, value in whole[1][1].items():
        assert torch.equal(rest[-1][1][key], value), key


def test_every_line_of_the_log_has_what_it_promises(tmp_path):
    settings = system()
    _, lines = run(tmp_path, settings)
    for line in lines:
        assert set(line["terms"]) == {"map", "offset"}
        assert line["loss"] == pytest.approx(sum(line["terms"].values()))
        assert line["epoch"] == pytest.approx(line["iteration"] * 4 / 1000)
        assert line["images_per_second"] == pytest.approx(4 / line["seconds_per_step"], rel=0.01)
        assert 0 <= line["data_time"] <= line["seconds_per_step"]
        assert line["memory"]["resident"] > 2**20
    assert [line["learning_rate"] for line in lines] == [0.01] * 4 + [0.001] * 2
    assert lines[-1]["loss"] < lines[0]["loss"]


@pytest.mark.serial
def test_the_time_spent_waiting_for_data_is_logged(tmp_path):
    def slow():
        for number, batch in zip(range(7), stream(), strict=False):
            time.sleep(0.1 if number % 2 else 0)
            yield batch

    _, lines = run(tmp_path, system(), batches=slow())
    for line in lines:
        if line["iteration"] % 2:
            assert line["data_time"] < 0.05
        else:
            assert line["data_time"] == pytest.approx(0.1, abs=0.05)


def test_the_gradient_norm_is_that_of_all_gradients(tmp_path):
    settings, detector = system(chunk_sizes=(1, 3)), stand_in()
    _, norm = train_step(state(settings, detector), make_batch(0))
    squares = [gradient.square().sum() for gradient in gradients(detector).values()]
    torch.testing.assert_close(norm, torch.stack(squares).sum().sqrt())
    _, lines = run(tmp_path, settings)
    assert lines[0]["gradient_norm"] == pytest.approx(norm.item())


def test_gradients_above_the_clip_norm_are_scaled_down_to_it():
    """All together: every weight's gradient keeps its part, and the norm given is that before."""
    plain, clipped, untouched = stand_in(), stand_in(), stand_in()
    norms = []
    for detector, limit in ((plain, None), (clipped, 0.25), (untouched, 1e6)):
        optimizer = torch.optim.SGD(detector.network.parameters(), lr=1.0)
        settings = system(chunk_sizes=(1, 3), clip_norm=limit)
        norms.append(train_step(state(settings, detector, optimizer), make_batch(0))[1])
    assert norms[0] == norms[1] == norms[2] > 0.25
    start = stand_in().network.state_dict()
    for name, gradient in gradients(plain).items():
        expected = gradient * 0.25 / norms[0]
        torch.testing.assert_close(gradients(clipped)[name], expected, rtol=1e-4, atol=1e-7)
        moved = start[name] - clipped.network.get_parameter(name)
        torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-6)
        assert torch.equal(gradients(untouched)[name], gradient)


def test_without_an_update_gradients_are_added_and_no_weight_moves():
    """So a plan measures a chunk with the gradients of the chunk before in memory."""
    detector = stand_in()
    before = copy.deepcopy(detector.network.state_dict())
    steps = state(system(chunk_sizes=(1, 3)), detector)
    train_step(steps, make_batch(0), update=False)
    once = {name: gradient.clone() for name, gradient in gradients(detector).items()}
    train_step(steps, make_batch(0), update=False)
    for name, gradient in gradients(detector).items():
        torch.testing.assert_close(gradient, 2 * once[name], msg=name)
    for name, weight in detector.network.named_parameters():
        assert torch.equal(weight, before[name]), name
    train_step(steps, make_batch(0))
    for name, gradient in gradients(detector).items():
        torch.testing.assert_close(gradient, once[name], msg=name)


def test_the_last_step_is_saved_once(tmp_path):
    settings = system(snapshot=4)
    assert [s[0] for s in run(tmp_path, settings)[0]] == [4, 6]
    settings = system(snapshot=3)
    assert [s[0] for s in run(tmp_path, settings)[0]] == [3, 6]


def test_nothing_is_left_to_do(tmp_path):
    settings = system()
    snapshots, lines = run(tmp_path, settings, start=6)
    assert snapshots == lines == []


def gradients(detector):
    return {name: p.grad for name, p in detector.network.named_parameters()}


def chunk_terms(detector, chunk):
    outputs = detector.network(apply_color(chunk.images, chunk.color))
    return detector.losses(outputs, detector.targets(chunk))


@pytest.mark.parametrize("sizes", [(1, 3), (2, 2), (1, 1, 2), (4,)])
def test_a_step_is_the_mean_of_its_chunks(sizes):
    """As a copy of the network for each chunk, which is how several devices compute it."""
    batch, detector = make_batch(0), stand_in()
    ends = list(itertools.accumulate(sizes))
    copies, every_terms = [], []
    for size, end in zip(sizes, ends, strict=True):
        replica = stand_in()
        terms = chunk_terms(replica, batch[end - size : end])
        sum(terms.values()).backward()
        copies.append(replica)
        every_terms.append(terms)
    optimizer = torch.optim.SGD(detector.network.parameters(), lr=0.0)
    terms, _ = train_step(state(system(chunk_sizes=sizes), detector, optimizer), batch)
    for name, value in terms.items():
        expected = sum(terms[name] for terms in every_terms) / len(sizes)
        torch.testing.assert_close(value, expected)
    for name, gradient in gradients(detector).items():
        expected = sum(gradients(replica)[name] for replica in copies) / len(sizes)
        torch.testing.assert_close(gradient, expected, msg=name)
    # Running statistics, and their count, are those of the first chunk alone.
    for key, value in copies[0].network.named_buffers():
        torch.testing.assert_close(dict(detector.network.named_buffers())[key], value, msg=key)


def test_chunks_make_another_step_than_the_whole_batch():
    settings = [system(), system(chunk_sizes=(1, 3))]
    detectors = [stand_in(), stand_in()]
    for detector, setting in zip(detectors, settings, strict=True):
        optimizer = torch.optim.SGD(detector.network.parameters(), lr=0.0)
        train_step(state(setting, detector, optimizer), make_batch(0))
    first, second = (gradients(detector) for detector in detectors)
    assert not torch.allclose(first["body.0.weight"], second["body.0.weight"])


def test_a_step_leaves_its_batch_and_the_batch_norms_as_they_were():
    detector, batch = stand_in(), make_batch(0)
    before = copy.deepcopy(batch)
    optimizer = torch.optim.SGD(detector.network.parameters(), lr=0.1)
    train_step(state(system(chunk_sizes=(2, 2)), detector, optimizer), batch)
    for name, value in vars(before).items():
        assert value is None or torch.equal(value, getattr(batch, name)), name
    assert detector.network.body[1].track_running_stats


def test_a_step_of_one_image():
    detector = stand_in()
    optimizer = torch.optim.SGD(detector.network.parameters(), lr=0.1)
    terms, _ = train_step(state(system(batch_size=1), detector, optimizer), make_batch(0, 1))
    assert all(torch.isfinite(value) for value in terms.values())


def test_validation_changes_nothing_and_uses_running_statistics(tmp_path):
    detector, batch = stand_in(), make_batch(9)
    before = copy.deepcopy(detector.network.state_dict())
    terms = validate(state(system(chunk_sizes=(1, 3)), detector), batch)
    for key, value in before.items():
        assert torch.equal(detector.network.state_dict()[key], value), key
    assert all(parameter.grad is None for parameter in detector.network.parameters())
    detector.network.eval()
    with torch.no_grad():
        chunks = [chunk_terms(detector, batch[:1]), chunk_terms(detector, batch[1:])]
    for name, value in terms.items():
        assert value == pytest.approx(sum(float(chunk[name]) for chunk in chunks) / 2)


def test_validation_every_val_iter_leaves_training_as_it_is(tmp_path):
    plain, lines = run(tmp_path / "a", system())
    settings = system(val_iter=2)
    seen = []

    def validation():
        for number in itertools.count():
            seen.append(number)
            yield make_batch(100 + number)

    watched, watched_lines = run(tmp_path / "b", settings, validation=validation())
    assert seen == [0, 1, 2]
    validated = [line for line in watched_lines if "validation" in line]
    assert [line["iteration"] for line in validated] == [2, 4, 6]
    assert [line["iteration"] for line in watched_lines] == [1, 2, 2, 3, 4, 4, 5, 6, 6]
    assert set(validated[0]["validation"]) == {"loss", "terms"}
    assert losses(watched_lines) == losses(lines)
    for key, value in plain[-1][1].items():
        assert torch.equal(watched[-1][1][key], value), key


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision_is_that_of_the_network_alone(precision):
    detector, dtypes = stand_in(), []
    detector.network.register_forward_hook(lambda *call: dtypes.append(call[2][0].dtype))
    optimizer = torch.optim.SGD(detector.network.parameters(), lr=0.1)
    settings = system(precision=precision)
    terms, _ = train_step(state(settings, detector, optimizer), make_batch(0))
    validate(state(settings, detector, optimizer), make_batch(0))
    assert dtypes == [getattr(torch, precision)] * 2
    assert {value.dtype for value in terms.values()} == {torch.float32}
    assert {p.dtype for p in detector.network.parameters()} == {torch.float32}


def test_frozen_statistics_come_back_after_an_error():
    network = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2, track_running_stats=False))
    with pytest.raises(KeyError), frozen_running_statistics(network):
        assert not network[0].track_running_stats
        raise KeyError
    assert network[0].track_running_stats
    assert not network[1].track_running_stats


def test_learning_rate_follows_the_references_loop():
    rate, reference = 0.00025, []
    for iteration in range(1, 21):
        reference.append(rate)
        if iteration % 6 == 0:  # the reference divides after such a step
            rate /= 10
    settings = system(learning_rate=0.00025, stepsize=6, decay_rate=10.0)
    assert [learning_rate_at(i, settings) for i in range(1, 21)] == pytest.approx(reference)


def test_optimisers_are_the_references():
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2), requires_grad=False)]
    adam = build_optimizer(parameters, "adam", 0.5)
    assert isinstance(adam, torch.optim.Adam)
    assert adam.defaults["betas"] == (0.9, 0.999)
    assert adam.defaults["weight_decay"] == 0
    sgd = build_optimizer(parameters, "sgd", 0.5)
    assert isinstance(sgd, torch.optim.SGD)
    assert (sgd.defaults["momentum"], sgd.defaults["weight_decay"]) == (0.9, 0.0001)
    for optimizer in (adam, sgd):
        assert [group["params"] for group in optimizer.param_groups] == [parameters[:1]]
        assert optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("graphs", [False, True])
def test_terms_fetched_late_are_those_of_their_step(tmp_path, graphs):
    """On a GPU the log is one step behind the queue, and must not mix the steps up."""
    device = torch.device("cuda")
    settings = system(max_iter=20, opt_algo="sgd", cuda_graph=graphs)
    expected = []
    detector = stand_in()
    detector.network.to(device)
    twin = stand_in()
    twin.network.to(device)
    _, lines = run(tmp_path, settings, detector=detector, device=device)
    steps = state(settings, twin, device=device)
    for iteration, batch in zip(range(1, 21), stream(), strict=False):
        set_learning_rate_(steps.optimizer, iteration, settings)
        terms, _ = train_step(steps, batch, iteration)
        expected.append(sum(value.item() for value in terms.values()))
    assert all(abs(one / next_ - 1) > 0.01 for one, next_ in itertools.pairwise(expected[:5]))
    assert [line["loss"] for line in lines] == pytest.approx(expected, rel=1e-4)
