"""A step is defined by the config's chunks: any number of processes computes the same."""

import itertools
import os
import signal
import time

import pytest
import torch

from core.config.errors import UserError
from core.config.loading import load_config
from core.distributed import Stopped
from core.training.chunks import rank_chunks
from core.training.command import describe
from core.training.compilation import compile_
from core.training.failures import NonFiniteLoss
from core.training.run import prepare
from core.training.step import train_step
from tests.support.engine_stand_in import (
    make_batch,
    stand_in,
    stand_in_run,
    system,
    train_stand_in,
)
from tests.support.some_ranks import run_ranks
from tests.support.tiny_training import argv, write_training

CPU = torch.device("cpu")
CHUNKS = (1, 2, 1, 3)
SETTINGS = {"batch_size": 7, "chunk_sizes": CHUNKS, "max_iter": 10, "val_iter": 5, "stepsize": 8}
SETTINGS |= {"clip_norm": 1.0, "ema": 0.8}  # the norm is less than most


def exact_stand_in():
    """The stand-in, in float64 from the images to the loss."""
    detector = stand_in()
    detector.network.double()
    detector.network.register_forward_pre_hook(lambda module, given: (given[0].double(),))
    terms = {
        "map": lambda outputs, target: (outputs[0] - target).square().mean(),
        "offset": lambda outputs, target: 0.01 * outputs[0].abs().sum(),
    }
    losses = lambda *given: {name: term(*given) for name, term in terms.items()}  # noqa: E731
    object.__setattr__(detector, "losses", losses)
    return detector


def batches(rows, first=0):
    return (make_batch(number, 7)[rows] for number in itertools.count(first))


def train_here(ranks, folder, settings, detector, given=None, seconds=60):
    """Trains as one of the ranks; gives the snapshots, and rank 0's log."""
    ranks = ranks.with_step_group(seconds, CPU, None)
    rows = rank_chunks(settings, ranks).rows
    run = stand_in_run(
        folder,
        settings,
        batches=given or batches(rows),
        validation=batches(rows, 100),
        detector=detector,
        ranks=ranks,
    )
    try:
        lines = train_stand_in(folder, run)
    except (Stopped, NonFiniteLoss, UserError) as reason:
        return run.saved, None, f"{type(reason).__name__}: {reason}"
    return run.saved, lines if ranks.is_main else None, None


def losses(lines):
    """Everything in a log that is a loss."""
    found = []
    for line in lines:
        terms = line["terms"] if "terms" in line else line["validation"]["terms"]
        found.append([line["iteration"], *terms.values()])
    return torch.tensor(found, dtype=torch.float64)


def exact_run(ranks, folder):
    return train_here(ranks, folder, system(opt_algo="sgd", **SETTINGS), exact_stand_in())


def compiled_run(ranks, folder):
    detector = exact_stand_in()
    compile_(detector.network, "aot_eager")
    return train_here(ranks, folder, system(opt_algo="sgd", compile=True, **SETTINGS), detector)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Ten steps by one process: the weights, their average, the log."""
    ((saved, lines, _),) = run_ranks(1, exact_run, tmp_path_factory.mktemp("alone"))
    return saved[-1][1], saved[-1][3], lines


@pytest.mark.parametrize(
    ("world_size", "one_run"), [(2, exact_run), (3, exact_run), (4, exact_run), (2, compiled_run)]
)
def test_any_number_of_processes_computes_the_same_steps(alone, tmp_path, world_size, one_run):
    """In float64 what is left is the order of additions; three do not divide the four chunks."""
    weights, averages, lines = alone
    results = run_ranks(world_size, one_run, tmp_path)
    (_, last, _, average), (_, own_lines, _) = results[0][0][-1], results[0]
    torch.testing.assert_close(losses(own_lines), losses(lines), rtol=1e-9, atol=1e-9)
    assert len(own_lines) == 12
    for key, value in weights.items():  # running statistics among them
        torch.testing.assert_close(last[key], value, rtol=1e-9, atol=1e-9, msg=key)
        torch.testing.assert_close(average[key], averages[key], rtol=1e-9, atol=1e-9, msg=key)
    assert [saved[-1][3] for saved, *_ in results[1:]] == [None] * (world_size - 1)
    for saved, _, problem in results:
        assert problem is None
        for key, value in exact_stand_in().network.named_parameters():
            assert torch.equal(saved[-1][1][key], last[key]), key
            assert not torch.equal(last[key], value), key


def slow_to_compile(ranks, folder):
    """Two steps, of which rank 1's first would take longer than a step may."""
    detector = exact_stand_in()
    forward, calls = detector.network.forward, []

    def compiling(images):
        if not ranks.is_main and not calls:
            time.sleep(3)
        calls.append(len(images))
        return forward(images)

    detector.network.forward = compiling
    settings = system(compile=True, **{**SETTINGS, "max_iter": 2, "val_iter": 100})
    return train_here(ranks, folder, settings, detector, seconds=1)[-1]


def test_ranks_have_the_time_to_compile(tmp_path):
    assert run_ranks(2, slow_to_compile, tmp_path) == [None, None]


def ten_chunks(ranks, folder):
    """Three steps of ten chunks, as those of the published batch; gives the weights."""
    sizes = (1, *[2] * 9)
    more = {"chunk_sizes": sizes, "batch_size": 19, "max_iter": 3, "val_iter": 100}
    settings = system(opt_algo="sgd", **{**SETTINGS, **more})
    rows = rank_chunks(settings, ranks).rows
    given = (make_batch(number, 19)[rows] for number in itertools.count())
    saved, lines, _ = train_here(ranks, folder, settings, exact_stand_in(), given)
    return saved[-1][1], lines


def test_five_and_ten_processes_share_ten_chunks(tmp_path):
    ((weights, lines),) = run_ranks(1, ten_chunks, tmp_path / "1")
    for world_size in (5, 10):
        (last, own_lines), *_ = run_ranks(world_size, ten_chunks, tmp_path / str(world_size))
        torch.testing.assert_close(losses(own_lines), losses(lines), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(last, weights, rtol=1e-9, atol=1e-9)


def first_gradients(ranks, root):
    """The gradients of a CornerNet-Squeeze's first step, and its loss terms."""
    ranks = ranks.with_step_group(60, CPU, None)
    name, *_ = argv(root)
    run = prepare(load_config(name), CPU, ranks=ranks)
    run.network.train()
    terms, _ = train_step(run, next(iter(run.batches())))
    gradients = {key: p.grad for key, p in run.detector.network.named_parameters()}
    return {key: value.clone() for key, value in {**gradients, **terms}.items()}


def test_the_first_gradients_of_a_detector(tmp_path):
    """From the loader to the gradients, in float32; chunks of 1 and 2 images."""
    write_training(tmp_path)
    (alone,) = run_ranks(1, first_gradients, tmp_path)
    for both in run_ranks(2, first_gradients, tmp_path):
        for key, value in alone.items():
            largest = value.abs().max().item()
            torch.testing.assert_close(both[key], value, rtol=0, atol=1e-5 * max(largest, 1e-3))


def spoilt(ranks, folder, how):
    """Something goes wrong on rank 1 in step 4."""
    settings = system(**{**SETTINGS, "val_iter": 100})
    rows = rank_chunks(settings, ranks).rows

    def given():
        for number, batch in zip(range(1, 1000), batches(rows), strict=False):
            if number == 4 and ranks.rank == 1:
                if how == "unreadable":
                    object.__setattr__(batch, "unreadable", torch.arange(11))
                elif how == "SIGTERM":
                    for _ in range(2):  # the second from whoever ends the whole job
                        os.kill(os.getpid(), signal.SIGTERM)
                elif how == "nan":
                    batch.color.fill_(float("nan"))
                else:
                    raise how
            yield batch

    result = train_here(ranks, folder, settings, stand_in(), given())
    os.kill(os.getpid(), signal.SIGTERM)  # torchrun's, once another rank has ended
    return result


@pytest.mark.parametrize(
    ("how", "saved", "first", "second"),
    [
        (ValueError("broken"), [3], "Stopped: rank 1: the loader failed: broken", "Stopped: the l"),
        (UserError("mine"), [3], "UserError: rank 1: mine", "UserError: mine"),
        ("SIGTERM", [3], "Stopped: rank 1: SIGTERM was received", "Stopped: SIGTERM was received"),
        ("unreadable", [3], "UserError: 11 of the 1000 images", "UserError: 11 of the 1000"),
        (
            "nan",
            [],
            "NonFiniteLoss: step 4 is not",
            "NonFiniteLoss: step 4 is not",
        ),
    ],
    ids=["loader", "mistake", "signal", "unreadable", "not a number"],
)
def test_trouble_on_one_rank_ends_all_at_the_same_step(tmp_path, how, saved, first, second):
    results = run_ranks(2, spoilt, tmp_path, how)
    assert [[step for step, *_ in snapshots] for snapshots, _, _ in results] == [saved, saved]
    assert results[0][2].startswith(first)
    assert results[1][2].startswith(second)
    if how == "nan":
        images = "images/0000.jpg, images/0001.jpg, images/0002.jpg, images/0003.jpg, …"
        assert images in results[0][2]
        assert (tmp_path / "non_finite_4.json").read_text().count(".jpg") == 7


def test_the_start_says_how_the_work_is_shared(tmp_path, caplog):
    write_training(tmp_path, max_iter=1)
    for line in run_ranks(2, started, tmp_path):
        assert line in ("processes: 2, for 2 chunks a step: 1 each", "")


def started(ranks, root):
    name, *_ = argv(root)
    run = prepare(load_config(name), CPU, ranks=ranks)
    return describe(run)[1] if ranks.is_main else ""
