"""Corner pooling by standard operators, against the operators that it stands for."""

import pytest
import torch
from torch import nn

from cpools_ext import CORNERS, DIRECTIONS, corner_pool, corner_pool_sum, portable


class Pools(nn.Module):
    """All poolings of one map."""

    def forward(self, x):
        one = [corner_pool(x, direction) for direction in DIRECTIONS]
        return one + [corner_pool_sum(x, -x, corner) for corner in CORNERS]


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (8, 5), (33, 16)])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_running_maxima(direction, size):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    dim, reverse = DIRECTIONS[direction]
    assert torch.equal(portable.corner_pool(x, dim, reverse), corner_pool(x, direction))


def test_what_is_exported_has_only_standard_operators():
    x = torch.randn(1, 2, 6, 9, generator=torch.Generator().manual_seed(0))
    program = torch.export.export(Pools(), (x,), strict=False)
    assert "cpools_ext" not in str(program.graph)
    assert str(program.graph).count("aten.maximum") == 4 * (3 + 4)  # log2 of 6 and 9, rounded up
    found = program.module()(x)
    assert all(torch.equal(*pair) for pair in zip(found, Pools()(x), strict=True))


class Pool(nn.Module):
    """The shortest network that pools."""

    def forward(self, x):
        return corner_pool(x, "right")


def test_lines_of_any_length():
    length = torch.export.Dim("length", min=1, max=portable.MOST_CELLS)
    program = torch.export.export(
        Pool(), (torch.randn(1, 7),), dynamic_shapes=({1: length},), strict=False
    )
    for cells in (1, 2, 500, portable.MOST_CELLS):
        x = torch.arange(3.0, 3 + cells).flip(0)[None]
        assert torch.equal(program.module()(x), torch.full_like(x, 2.0 + cells))
