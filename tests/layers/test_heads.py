"""A head at some cells gives what its whole map has there, with the same gradients."""

import pytest
import torch

from core.layers.heads import Head, Read, where_to_read
from cpools_ext.corners import gather_cells


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kernel", [1, 3])
def test_cells_are_those_of_the_map(kernel, layout):
    torch.manual_seed(0)
    head = Head(5, 4, 2, kernel).double().to(memory_format=layout)
    features = torch.randn(2, 5, 7, 9, dtype=torch.double).contiguous(memory_format=layout)
    features.requires_grad_()
    cells = torch.randint(63, (2, 20))
    cells[:, :8] = torch.tensor([0, 4, 8, 9, 31, 54, 58, 62])  # corners and edges among them
    cells[:, 8] = cells[:, 9]  # one cell twice
    expected, found = gather_cells(head(features), cells), head(features, cells)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    of = [features, *head.parameters()]
    gradients = [torch.autograd.grad((x * weights).sum(), of) for x in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_cells_of_bfloat16_are_bfloat16():
    head, features = Head(4, 4, 1), torch.randn(1, 4, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert head(features, torch.zeros(1, 3, dtype=torch.int64)).dtype == torch.bfloat16


def test_no_cells():
    assert Head(4, 4, 2)(torch.randn(1, 4, 5, 5), torch.zeros(1, 0, dtype=torch.int64)).shape == (
        1,
        0,
        2,
    )


def test_cells_are_given_or_searched_for_by_all_heatmaps():
    heatmaps, cells = (
        (torch.randn(1, 1, 3, 4), torch.randn(1, 1, 3, 4)),
        (torch.tensor([[3]]), None),
    )
    assert where_to_read(heatmaps, cells, None) == Read(cells, None)
    read = Read(cells, peaks=None)
    assert (
        where_to_read(heatmaps, (None, None), lambda *maps: read if maps == heatmaps else None)
        is read
    )
