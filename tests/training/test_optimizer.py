"""The optimizer's groups and weight decay, and the learning rate by step."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from core.config.files import CONFIG_DIR
from core.config.loading import load_config
from core.training.command import describe
from core.training.optimizer import build_optimizer, learning_rate_at, load_optimizer_state_
from core.training.run import prepare
from core.training.step import train_step
from tests.support.engine_stand_in import make_batch, stand_in, state, system
from tests.support.tiny_training import argv, write_training

PUBLISHED = ("CornerNet", "CornerNet_Squeeze", "CornerNet_Saccade", "CenterNet", "FasterRCNN")


def rates(iterations, **settings):
    settings = {"learning_rate": 0.5, "max_iter": 11, "stepsize": 4, **settings}
    return [learning_rate_at(iteration, system(**settings)) for iteration in iterations]


def test_the_cosine_schedule_by_hand():
    """From step 1, at the full rate, ten steps to the last one at 1 % of it."""
    half = 0.5 * (0.01 + 0.99 * 0.5)
    quarter = 0.5 * (0.01 + 0.99 * 0.5 * (1 + math.sqrt(0.5)))
    expected = [0.5, half, 0.5 * 0.01]
    assert rates([1, 6, 11], schedule="cosine") == pytest.approx(expected, rel=1e-12)
    assert rates([6], schedule="cosine", max_iter=21) == pytest.approx([quarter], rel=1e-12)
    every = rates(range(1, 12), schedule="cosine")
    assert every == sorted(every, reverse=True) and len(set(every)) == 11


def test_the_warm_up_by_hand():
    """A straight line to the full rate; then the schedules go their way."""
    cosine = rates(range(1, 12), schedule="cosine", warmup=5)
    assert cosine[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5], rel=1e-12)
    assert cosine[7] == pytest.approx(0.5 * (0.01 + 0.99 * 0.5), rel=1e-12)  # halfway from 5 to 11
    assert cosine[10] == pytest.approx(0.005, rel=1e-12)
    step = rates(range(1, 12), warmup=5)
    assert step[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4], rel=1e-12)
    assert step[4:] == pytest.approx([0.05] * 4 + [0.005] * 3, rel=1e-12)


@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_a_schedule_of_few_steps_has_a_rate_for_each(schedule):
    assert rates([1], schedule=schedule, max_iter=1) == [0.5]
    (only,) = rates([1], schedule=schedule, max_iter=1, warmup=10)
    assert only == pytest.approx(0.05)
    assert rates([12], schedule="cosine") == pytest.approx([0.005])  # behind the end


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_keep_their_optimizer_and_learning_rates(name):
    """One group of all parameters, and the rates of the reference, to the last bit."""
    settings = load_config(name).system
    assert (settings.ema, settings.patience, settings.weight_decay) == (None, 0, None)
    network = stand_in().network
    optimizer = build_optimizer(
        network.parameters(), settings.opt_algo, settings.learning_rate, settings.weight_decay
    )
    (group,) = optimizer.param_groups
    assert group["params"] == list(network.parameters())
    assert type(optimizer) is {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[settings.opt_algo]
    given = {"lr": settings.learning_rate, "fused": True}
    if settings.opt_algo == "adam":
        plain = torch.optim.Adam(network.parameters(), **given)
    else:
        plain = torch.optim.SGD(network.parameters(), momentum=0.9, weight_decay=1e-4, **given)
    assert repr(optimizer.state_dict()) == repr(plain.state_dict())  # 0 and 0.0 differ
    rate, count = settings.learning_rate, settings.max_iter // settings.stepsize
    decays = [settings.stepsize * number for number in range(count + 1)]
    for number, step in enumerate(decays):
        expected = rate / settings.decay_rate**number
        for iteration in (step + 1, step + settings.stepsize):
            assert learning_rate_at(iteration, settings) == expected, iteration


def test_every_config_has_a_schedule():
    for path in CONFIG_DIR.glob("*.json"):
        settings = load_config(str(path)).system
        steps = (1, settings.max_iter // 2, settings.max_iter)
        assert all(0 < learning_rate_at(x, settings) <= settings.learning_rate for x in steps)


def test_adamw_decays_the_weights_of_convolutions_alone():
    network = stand_in().network
    optimizer = build_optimizer(network.parameters(), "adamw", 0.5)
    assert isinstance(optimizer, torch.optim.AdamW)
    decayed, others = optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.05, 0)
    assert decayed["params"] == [network.body[0].weight, network.heads[0].weight]
    norm = network.body[1]
    assert others["params"] == [network.body[0].bias, norm.weight, norm.bias, network.heads[0].bias]
    assert decayed["lr"] == others["lr"] == 0.5


@pytest.mark.parametrize(
    ("algorithm", "weight_decay", "weight", "bias"),
    [
        # Without a gradient, AdamW shrinks by rate times decay; the others see the decay as a
        # gradient: Adam's first step is the rate whatever that is, SGD's is the rate times it.
        ("adamw", None, 2 - 0.1 * 0.05 * 2, 2),
        ("adamw", 0.5, 2 - 0.1 * 0.5 * 2, 2),
        ("adam", None, 2, 2),
        ("adam", 0.5, 2 - 0.1, 2 - 0.1),
        ("sgd", None, 2 - 0.1 * 0.0001 * 2, 2 - 0.1 * 0.0001 * 2),
        ("sgd", 0.5, 2 - 0.1 * 0.5 * 2, 2 - 0.1 * 0.5 * 2),
    ],
)
def test_weight_decay_by_hand(algorithm, weight_decay, weight, bias):
    parameters = [nn.Parameter(torch.full(size, 2.0)) for size in ((3, 1), (3,))]
    optimizer = build_optimizer(parameters, algorithm, 0.1, weight_decay)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(parameters[0].data, torch.full((3, 1), float(weight)))
    torch.testing.assert_close(parameters[1].data, torch.full((3,), float(bias)))


@pytest.mark.parametrize("algorithm", ["adam", "sgd", "adamw"])
def test_a_resumed_optimizer_takes_the_weight_decay_of_the_config(algorithm):
    """PyTorch would take that of the state, and the setting would do nothing."""
    parameters = [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))]
    before, after = (build_optimizer(parameters, algorithm, 0.1, decay) for decay in (0.25, 0.5))
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    before.step()
    load_optimizer_state_(after, before.state_dict())
    decays = [group["weight_decay"] for group in after.param_groups]
    assert decays == ([0.5, 0] if algorithm == "adamw" else [0.5])
    states = [optimizer.state_dict()["state"] for optimizer in (before, after)]
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=0)


def test_training_takes_the_config_s_weight_decay(tmp_path):
    """By way of prepare, with a note where the warm-up would never end."""
    write_training(tmp_path, opt_algo="adamw", weight_decay=0.25, warmup=4)
    run = prepare(load_config(argv(tmp_path)[0]), torch.device("cpu"))
    decays = [group["weight_decay"] for group in run.optimizer.param_groups]
    assert decays == [0.25, 0]
    sizes = {len(parameter.shape) for parameter in run.optimizer.param_groups[1]["params"]}
    assert sizes == {1}
    groups = [len(group["params"]) for group in run.optimizer.param_groups]
    assert sum(groups) == len(list(run.network.parameters()))
    note = "note: system.warmup 4 lasts for all 4 steps: the learning rate does not reach 0.001"
    assert note in describe(run)
    run.config = dataclasses.replace(run.config, system=system(warmup=5))
    assert not [line for line in describe(run) if "warmup" in line]


def test_steps_of_adamw_go_down():
    run = state(system(opt_algo="adamw", learning_rate=0.05))
    losses = [float(train_step(run, make_batch(0))[0]["map"]) for _ in range(10)]
    assert losses[-1] < losses[0]
