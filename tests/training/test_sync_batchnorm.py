"""Synchronised batch norms: where they can be, and that they see all ranks' images."""

import dataclasses
import os

import pytest
import torch
from torch import nn

from core.config.errors import UserError
from core.distributed import ONE_PROCESS, Ranks
from core.training.build import synchronise_batch_norms_
from core.training.step import train_step
from tests.support.engine_stand_in import make_batch, stand_in, state, system
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
    """A step of a detector whose loss is a mean: weights and running statistics after it."""
    device = torch.device("cuda", ranks.rank % torch.cuda.device_count())
    if torch.cuda.device_count() < ranks.world_size:
        # NCCL refuses two ranks on one GPU of a machine: they say that they are on two machines.
        os.environ |= {"NCCL_HOSTID": str(ranks.rank), "NCCL_SOCKET_IFNAME": "lo"}
    ranks = ranks.with_step_group(60, device, "nccl")
    detector = stand_in()
    network = detector.network.to(device)
    synchronise_batch_norms_(network, device, settings, ranks)
    losses = {"losses": lambda outputs, target: {"map": outputs[0].square().mean()}}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    run = state(settings, dataclasses.replace(detector, **losses), optimizer, ranks, device)
    train_step(run, make_batch(0)[run.chunks.rows])
    return {key: value.cpu() for key, value in network.state_dict().items()}


@pytest.mark.cuda
@pytest.mark.skipif(
    not (torch.cuda.is_available() and torch.distributed.is_nccl_available()),
    reason="gloo cannot gather into one tensor, as SyncBatchNorm does: needs a GPU and NCCL",
)
def test_two_ranks_make_the_step_of_one_large_chunk():
    (whole,) = run_ranks(1, one_step, system(sync_batchnorm=True), method="spawn")
    for both in run_ranks(2, one_step, SETTINGS, method="spawn"):
        for key, value in whole.items():
            torch.testing.assert_close(both[key], value, rtol=1e-4, atol=1e-5, msg=key)
