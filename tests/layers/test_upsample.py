"""Doubling by repeating cells."""

import pytest
import torch

from core.layers.upsample import RepeatCells, repeat_cells


def test_cells_are_repeated():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    doubled = RepeatCells()(x)
    assert torch.equal(doubled, x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert repeat_cells(x, (3, 4)).tolist() == [[[[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4]]]]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_autocast_does_not_widen_them(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    x = torch.ones(1, 2, 3, 3, dtype=torch.bfloat16, device=device)
    with torch.autocast(device, torch.bfloat16):
        assert RepeatCells()(x).dtype == torch.bfloat16
