"""Gradients and statistics that a step's chunks leave in a network, to compare."""

import contextlib

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from core.training.step import frozen_running_statistics


def compute_chunks_(network, images, times=3, precision=None, cells=()):
    """Adds up gradients as a step of ``times`` chunks does; the statistics are the first one's.

    Args:
        network: a map for each image, or a structure of them.
        images: the chunk, the same every time.
        precision: of autocast; None: that of weights and images.
        cells: what else the network is given.
    """
    for number in range(times):
        autocast = torch.autocast("cpu", precision) if precision else contextlib.nullcontext()
        with frozen_running_statistics(network if number else nn.Identity()), autocast:
            maps = tree_leaves(network(images, *cells))
        sum((number + 1) * map_.to(images.dtype).square().mean() for map_ in maps).backward()


def assert_same_gradients(network, expected, tolerance):
    """The same gradients and buffers, up to a part ``tolerance`` of each one's norm."""
    wanted = dict(expected.named_parameters())
    for key, value in network.named_parameters():
        difference = (value.grad - wanted[key].grad).norm()
        assert difference <= tolerance * wanted[key].grad.norm(), key
    buffers = dict(expected.named_buffers())
    for key, value in network.named_buffers():
        wanted_value = buffers[key].to(value.dtype)
        torch.testing.assert_close(value, wanted_value, rtol=tolerance, atol=tolerance, msg=key)
