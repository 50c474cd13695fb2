"""Offsets as distributions: means and losses by a loop."""

import math

import numpy as np
import pytest
import torch

from core.layers.distribution import VALUES, distribution_loss, mean_offset
from tests.support.offset_bins import bins_of

PLACES = [-1.5 + 0.5 * k for k in range(9)]


def test_means_equal_a_loop():
    logits = torch.randn(3, 5, 2 * VALUES, generator=torch.Generator().manual_seed(0))
    found = mean_offset(logits)
    for cell in np.ndindex(3, 5):
        for axis in range(2):
            weights = [math.exp(v) for v in logits[cell][9 * axis : 9 * axis + 9].tolist()]
            wanted = sum(w * x for w, x in zip(weights, PLACES, strict=True)) / sum(weights)
            assert found[cell][axis].item() == pytest.approx(wanted, abs=1e-5)
    assert mean_offset(logits.bfloat16()).dtype == torch.float32


def test_every_offset_of_a_window_is_the_mean_of_a_distribution():
    offset = torch.linspace(-1, 2, 31)[:, None].expand(31, 2)
    assert torch.allclose(mean_offset(bins_of(offset)), offset, atol=1e-5)
    outside = mean_offset(torch.full((1, 2 * VALUES), -20.0).index_fill(1, torch.tensor([8]), 20.0))
    assert outside[0].tolist() == pytest.approx([2.5, 0.5])


def test_the_loss_equals_a_loop_and_is_least_at_the_target():
    g = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 4, 2 * VALUES, generator=g, dtype=torch.float64).requires_grad_()
    target = torch.tensor([-1.0, -0.3, 0.0, 0.25, 0.5, 1.99, -9.0, 9.0]).repeat(2).view(2, 4, 2)
    mask = torch.tensor([[True, True, False, True], [False, True, True, True]])
    found = distribution_loss(logits, target, mask)
    for row, number in np.ndindex(2, 4):
        wanted = 0.0
        for axis in range(2):
            logs = logits[row, number].view(2, 9)[axis].log_softmax(0).tolist()
            x = min(max(target[row, number, axis].item(), -1.5), 2.5)
            for value, log in zip(PLACES, logs, strict=True):
                wanted -= max(0.0, 1 - abs(x - value) / 0.5) * log
        expected = wanted if mask[row, number] else 0
        assert found[row, number].item() == pytest.approx(expected, abs=1e-5)
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert gradient[mask].any(1).all() and not gradient[~mask].any()
    inside = target.clamp(-1, 2)
    best = distribution_loss(bins_of(inside), inside, mask)
    assert (best <= distribution_loss(bins_of(inside + 0.2), inside, mask)).all()
