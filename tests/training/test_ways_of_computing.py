"""Gradients and updates by every way that a config has to compute them, against the plain one."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from core.config.loading import load_config
from core.training.optimizer import build_optimizer
from core.training.run import prepare
from core.training.step import train_step
from tests.support.engine_stand_in import make_batch, stand_in, state, system
from tests.support.tiny_training import argv, write_training
from tests.training.test_loop_ranks import exact_stand_in

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("ways")
    write_training(root)
    return root


def first_step(root, **settings):
    """The gradients of a CornerNet-Squeeze's first step, as one vector, and its loss terms."""
    name, *_ = argv(root)
    overrides = [f"system.{key}={value}" for key, value in settings.items()]
    run = prepare(load_config(name, overrides=overrides), CPU)
    run.network.train()
    terms, _ = train_step(run, next(iter(run.batches())))
    gradients = [parameter.grad.reshape(-1) for parameter in run.network.parameters()]
    return torch.cat(gradients), torch.stack(list(terms.values()))


@pytest.fixture(scope="module")
def plain(root):
    return first_step(root, channels_last="false")


def test_channels_last_gives_the_gradients_of_the_contiguous_layout(root, plain):
    gradients, terms = first_step(root, channels_last="true")
    torch.testing.assert_close(terms, plain[1], rtol=1e-5, atol=1e-6)
    assert (gradients - plain[0]).norm() < 1e-4 * plain[0].norm()


def test_bfloat16_gives_the_gradients_of_float32_to_its_precision():
    """Through one batch norm, whose gradient is a small difference of larger numbers."""
    gradients = []
    for precision in ("float32", "bfloat16"):
        detector = stand_in()
        optimizer = torch.optim.SGD(detector.network.parameters(), lr=0.1)
        train_step(state(system(precision=precision), detector, optimizer), make_batch(0))
        gradients.append([parameter.grad for parameter in detector.network.parameters()])
    for plain, half in zip(*gradients, strict=True):
        if plain.norm() > 1e-3:  # a bias before a batch norm has none
            assert 0 < (half - plain).norm() < 0.15 * plain.norm()


def test_a_whole_detector_in_bfloat16_goes_the_same_way(root, plain):
    """Its batch norms see few cells, and make more of the errors."""
    gradients, terms = first_step(root, channels_last="false", precision="bfloat16")
    torch.testing.assert_close(terms, plain[1], rtol=0.02, atol=0.02)
    assert torch.cosine_similarity(gradients, plain[0], dim=0) > 0.9


def test_weights_are_cast_once_a_step():
    """By the first of its chunks; all see the same weights."""

    class Casts(TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            if operator is torch.ops.aten._to_copy.default and args[0].data_ptr() in weights:
                cast.append(args[0].data_ptr())
            return operator(*args, **kwargs or {})

    detector, cast = stand_in(), []
    weights = {parameter.data_ptr() for parameter in detector.network.parameters()}
    run = state(system(precision="bfloat16", chunk_sizes=(2, 1, 1)), detector)
    with Casts():
        for number in (1, 2):
            train_step(run, make_batch(number))
    convolutions = [module for module in detector.network.modules() if hasattr(module, "stride")]
    assert len(cast) == 2 * len(set(cast)) == 2 * 2 * len(convolutions)


@pytest.mark.parametrize("algorithm", ["adam", "sgd"])
def test_fused_optimisers_make_the_updates_of_plain_ones(algorithm):
    """In float64: Adam makes an update of every gradient, also of one that is rounding alone."""
    detectors = [exact_stand_in(), exact_stand_in()]
    for detector, fused in zip(detectors, (True, False), strict=True):
        optimizer = build_optimizer(detector.network.parameters(), algorithm, 0.01)
        assert all(group["fused"] for group in optimizer.param_groups)
        if not fused:
            options = {**optimizer.defaults, "fused": False, "foreach": False}
            optimizer = type(optimizer)(detector.network.parameters(), **options)
        for number in range(3):
            train_step(state(system(), detector, optimizer), make_batch(number))
    weights = [list(detector.network.parameters()) for detector in detectors]
    torch.testing.assert_close(*weights, rtol=1e-6, atol=1e-9)
