"""Synchronised batch norms: where they can be, and that they see all ranks' pictures."""

import dataclasses

import pytest
import torch
from torch import nn

from core.config.errors import UserError
from core.distributed.ranks import ONE_PROCESS, Ranks
from core.train import loop as engine
from core.train.chunks import rank_chunks
from core.train.sync_batchnorm import synchronise_batch_norms_
from tests.support.engine_stand_in import make_batch, stand_in, system
from tests.support.some_ranks import run_ranks

CUDA = torch.device("cuda:0")
SETTINGS = system(chunk_sizes=(2, 2), sync_batchnorm=True)


def test_on_cpus_one_line_says_that_there_are_none():
    with pytest.raises(UserError, match="GPUs alone"):
        synchronise_batch_norms_(stand_in().network, torch.device("cpu"), SETTINGS, ONE_PROCESS)


def test_ranks_with_different_numbers_of_chunks_would_wait_for_ever():
    settings = system(chunk_sizes=(2, 1, 1))
    with pytest.raises(UserError, match="of the 3 chunks a step, 2 processes"):
        synchronise_batch_norms_(stand_in().network, CUDA, settings, Ranks(0, 2))


@pytest.mark.parametrize("way", [{"compile": True}, {"checkpointing": "stack"}])
def test_not_with_what_nobody_has_seen_it_work_with(way):
    settings = dataclasses.replace(SETTINGS, **way)
    with pytest.raises(UserError, match=rf"not together with system\.{next(iter(way))} "):
        synchronise_batch_norms_(stand_in().network, CUDA, settings, Ranks(0, 2))


@pytest.mark.parametrize(
    ("ranks", "kind"), [(Ranks(0, 2), nn.SyncBatchNorm), (ONE_PROCESS, nn.BatchNorm2d)]
)
def test_the_weights_keep_their_names(ranks, kind):
    network = stand_in().network
    keys = list(network.state_dict())
    synchronise_batch_norms_(network, CUDA, SETTINGS, ranks)
    assert list(network.state_dict()) == keys
    assert type(network.body[1]) is kind


def one_step(ranks, settings):
    """A step of a detector whose loss is a mean: gradients and running statistics."""
    ranks = ranks.with_step_group(60, CUDA, "gloo")  # NCCL wants a GPU for each
    detector = stand_in()
    network = detector.network.to(CUDA)
    synchronise_batch_norms_(network, CUDA, settings, ranks)
    losses = {"losses": lambda outputs, target: {"map": outputs[0].square().mean()}}
    detector = dataclasses.replace(detector, network=ranks.parallel(network).train(), **losses)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    batch = make_batch(0)[rank_chunks(settings, ranks).rows]
    engine.train_step(detector, optimizer, batch, settings, CUDA, 1, ranks)
    return {key: value.cpu() for key, value in network.state_dict().items()}


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_two_ranks_make_the_step_of_one_large_chunk():
    (whole,) = run_ranks(1, one_step, system(sync_batchnorm=True), method="spawn")
    for both in run_ranks(2, one_step, SETTINGS, method="spawn"):
        for key, value in whole.items():
            torch.testing.assert_close(both[key], value, rtol=1e-4, atol=1e-5, msg=key)
