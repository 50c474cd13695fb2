"""Averaged weights: their values, in evaluations and in snapshots.

``test_loop_ranks.py`` has them with any number of processes, and compiled.
"""

import copy
import logging
import shutil

import pytest
import torch

import train
from core.checkpoint import snapshot as checkpoint
from core.checkpoint.run_directory import RunDirectory
from core.config.errors import UserError
from core.config.loading import load_config
from core.distributed import ONE_PROCESS
from core.training.averaging import AveragedWeights, averaged_weights_in
from core.training.run import prepare
from core.training.step import train_step
from tests.support.engine_stand_in import (
    make_batch,
    stand_in,
    state,
    system,
)
from tests.support.some_ranks import run_ranks
from tests.support.tiny_training import NAME, argv, write_training

CPU = torch.device("cpu")


def floats(network):
    return {
        key: value.clone()
        for key, value in network.state_dict().items()
        if value.is_floating_point()
    }


@pytest.mark.parametrize("ema", [0.3, 0.9])
def test_the_average_is_that_of_a_naive_loop(ema):
    """In float64 and by the definition; with 0.3 the decay of early steps is still below it."""
    steps = state(system(ema=ema))
    expected = {key: value.double() for key, value in floats(steps.network).items()}
    for number in range(1, 9):
        train_step(steps, make_batch(number), number)
        decay = min(ema, (1 + number) / (10 + number))
        for key, value in floats(steps.network).items():
            expected[key] = decay * expected[key] + (1 - decay) * value.double()
    averages = steps.average.state_dict()
    assert steps.average.steps == 8
    assert set(averages) == set(steps.network.state_dict())
    assert {"body.1.running_mean", "body.1.running_var"} < set(expected)
    for key, value in expected.items():
        torch.testing.assert_close(averages[key], value.float(), rtol=1e-5, atol=1e-7, msg=key)
        assert not torch.equal(averages[key], steps.network.state_dict()[key]), key
    assert averages["body.1.num_batches_tracked"] == 8  # a count is no average


def test_the_decay_is_that_of_the_step_until_it_is_the_setting():
    network = torch.nn.Linear(1, 1, bias=False)
    average = AveragedWeights(network, 0.25)
    expected = network.weight.item()
    for number, decay in ((1, 2 / 11), (2, 3 / 12), (3, 0.25), (4, 0.25)):
        with torch.no_grad():
            network.weight.add_(1.0)
        average.update_()
        expected = decay * expected + (1 - decay) * network.weight.item()
        assert average.state_dict()["weight"].item() == pytest.approx(expected), number


def test_averaging_leaves_the_steps_as_they_are():
    plain, averaged = state(system()), state(system(ema=0.9))
    assert plain.average is None
    for number in range(1, 4):
        for steps in (plain, averaged):
            train_step(steps, make_batch(number), number)
    for key, value in plain.network.state_dict().items():
        assert torch.equal(averaged.network.state_dict()[key], value), key


def test_a_step_without_an_update_is_not_averaged():
    steps = state(system(ema=0.9))
    train_step(steps, make_batch(0), update=False)
    assert steps.average.steps == 0


def evaluate_in_turn(ranks):
    """The weights within and after the context; each rank starts from statistics of its own."""
    ranks = ranks.with_step_group(60, CPU, None)
    steps = state(system(ema=0.9, chunk_sizes=(2, 2)), ranks=ranks)
    train_step(steps, make_batch(0)[steps.chunks.rows])
    network = steps.detector.network
    before = copy.deepcopy(network.state_dict())
    with averaged_weights_in(network, steps.average, ranks):
        within = copy.deepcopy(network.state_dict())
    average = steps.average.state_dict() if ranks.is_main else None
    return before, within, copy.deepcopy(network.state_dict()), average


def test_every_rank_evaluates_the_average_and_then_has_its_weights_again():
    results = run_ranks(2, evaluate_in_turn)
    average = results[0][-1]
    for before, within, after, _ in results:
        for key in before:
            assert torch.equal(after[key], before[key]), key
            if key != "body.1.num_batches_tracked":
                assert torch.equal(within[key], average[key]), key
                assert not torch.equal(within[key], before[key]), key
    mine, theirs = (before["body.1.running_mean"] for before, *_ in results)
    assert not torch.equal(mine, theirs)  # so the second rank's own average would differ


def test_the_weights_come_back_after_an_error():
    network = stand_in().network
    average = AveragedWeights(network, 0.9)
    with torch.no_grad():
        network.heads[0].weight.add_(1.0)
    before = floats(network)
    with pytest.raises(KeyError), averaged_weights_in(network, average, ONE_PROCESS):
        assert not torch.equal(network.heads[0].weight, before["heads.0.weight"])
        raise KeyError
    assert all(torch.equal(value, before[key]) for key, value in floats(network).items())


@pytest.mark.parametrize("checkpointing", ["residual", "stack"])
def test_parts_that_are_recomputed_have_the_same_average(tmp_path, checkpointing):
    """Meanwhile batch norms work on copies of their statistics."""
    write_training(tmp_path, ema=0.9)
    averages = []
    for setting in ("none", checkpointing):
        overrides = [f"system.checkpointing={setting}"]
        run = prepare(load_config(argv(tmp_path)[0], overrides=overrides), CPU)
        run.network.train()
        for iteration, batch in zip((1, 2), run.batches(), strict=False):
            train_step(run, batch, iteration)
        averages.append(run.average.state_dict())
    torch.testing.assert_close(*averages, rtol=1e-4, atol=1e-6)


def snapshot(root, iteration):
    return RunDirectory(root / "cache", NAME).snapshot(iteration)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of four steps that averages its weights."""
    root = tmp_path_factory.mktemp("trained")
    write_training(root, ema=0.9)
    assert train.main(argv(root)) == 0
    return root


def test_snapshots_have_the_averaged_weights_beside_the_raw_ones(trained):
    run = prepare(load_config(argv(trained)[0]), CPU)
    expected = AveragedWeights(run.detector.network, 0.9)
    run.average, given = None, iter(run.batches())
    run.network.train()
    for iteration in range(1, 5):
        for group in run.optimizer.param_groups:
            group["lr"] = 0.001 if iteration < 4 else 0.0001
        train_step(run, next(given), iteration)
        expected.update_()
    path = snapshot(trained, 4)
    averages = checkpoint.read_weights(checkpoint.averaged_path(path))
    assert list(averages) == list(checkpoint.read_weights(path))
    for key, value in expected.state_dict().items():
        assert torch.equal(averages[key], value), key
    assert checkpoint.read_meta(path).averaged_steps == 4
    assert checkpoint.read_meta(snapshot(trained, 2)).averaged_steps == 2


def resumed(root, iteration, *overrides):
    return prepare(load_config(argv(root)[0], overrides=overrides), CPU, iteration=iteration)


def test_a_resumed_run_goes_on_with_the_average(trained):
    average = resumed(trained, 2).average
    assert average.steps == 2
    saved = checkpoint.read_weights(checkpoint.averaged_path(snapshot(trained, 2)))
    for key, value in average.state_dict().items():
        assert torch.equal(value, saved[key]), key
    assert resumed(trained, 2, "system.ema=null").average is None


def test_averaged_weights_that_were_altered_are_not_resumed_from(trained, tmp_path):
    write_training(tmp_path, ema=0.9)
    shutil.copytree(trained / "cache", tmp_path / "cache")
    file = checkpoint.averaged_path(snapshot(tmp_path, 2))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(
        UserError, match=r"_2\.ema\.pkl was cut short or altered since it was saved"
    ):
        resumed(tmp_path, 2)


def test_without_averaged_weights_a_resumed_run_starts_to_average_with_a_notice(tmp_path, caplog):
    write_training(tmp_path, max_iter=2, snapshot=1)
    assert train.main(argv(tmp_path)) == 0
    assert not checkpoint.averaged_path(snapshot(tmp_path, 2)).exists()
    more = ("--set", "system.ema=0.9", "--set", "system.max_iter=4")
    assert train.main(argv(tmp_path, "--resume", *more)) == 0
    notice = f"{snapshot(tmp_path, 2)} has no averaged weights: the average starts from its weights"
    assert caplog.messages.count(notice) == 1
    assert checkpoint.read_meta(snapshot(tmp_path, 4)).averaged_steps == 2
    expected, *weights = (checkpoint.read_weights(snapshot(tmp_path, step)) for step in (2, 3, 4))
    for decay, after in zip((2 / 11, 3 / 12), weights, strict=True):
        expected = {key: decay * expected[key] + (1 - decay) * after[key] for key in after}
    check_close(checkpoint.averaged_path(snapshot(tmp_path, 4)), expected)


def check_close(path, expected):
    for key, value in checkpoint.read_weights(path).items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-6, msg=key)


def test_fine_tuning_averages_from_the_weights_it_starts_from(trained, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write_training(tmp_path, ema=0.9, max_iter=1)
    assert train.main(argv(tmp_path, "--weights", str(snapshot(trained, 4)))) == 0
    assert "has no averaged weights" not in caplog.text
    paths = snapshot(trained, 4), snapshot(tmp_path, 1)
    start, end = map(checkpoint.read_weights, paths)
    expected = {key: (2 * start[key] + 9 * end[key]) / 11 for key in end}
    check_close(checkpoint.averaged_path(snapshot(tmp_path, 1)), expected)


def test_averaged_weights_of_another_network_are_refused(trained, tmp_path):
    write_training(tmp_path, ema=0.9)
    path = snapshot(tmp_path, 2)
    weights = checkpoint.read_weights(snapshot(trained, 2))
    averages = {key: value for key, value in weights.items() if "heats" not in key}
    meta = checkpoint.read_meta(snapshot(trained, 2))
    checkpoint.save_snapshot(path, weights, None, meta, averages)
    with pytest.raises(UserError, match=r"_2\.ema\.pkl does not fit this network: \d+ missing"):
        resumed(tmp_path, 2)
