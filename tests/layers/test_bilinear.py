"""Where resized lines read the lines that they are made from."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from core.layers.bilinear import linear_taps


@pytest.mark.parametrize(("source", "target"), [(7, 7), (5, 23), (23, 5), (1, 4), (4, 1), (9, 10)])
def test_equals_interpolate(source, target):
    line = np.random.default_rng(source).random(source)
    first, second, share = linear_taps(np.arange(target), source, target)
    assert first.dtype == second.dtype == np.int64 and share.dtype == np.float32
    expected = F.interpolate(torch.from_numpy(line)[None, None], size=target, mode="linear")[0, 0]
    np.testing.assert_allclose(
        (1 - share) * line[first] + share * line[second], expected, atol=1e-6
    )


def test_lines_of_many_lengths_at_once_and_positions_outside():
    source, target = np.array([[3], [8]]), np.array([[6], [4]])
    first, second, share = linear_taps(np.arange(-2, 9), source, target)
    for row in range(2):
        inside = np.clip(np.arange(-2, 9), 0, target[row, 0] - 1)
        expected = linear_taps(inside, int(source[row, 0]), int(target[row, 0]))
        outside = (np.arange(-2, 9) < 0) | (np.arange(-2, 9) >= target[row, 0])
        for got, wanted in zip((first, second, share), expected, strict=True):
            np.testing.assert_array_equal(got[row][~outside], wanted[~outside])
        assert (first[row] >= 0).all() and (second[row] < source[row]).all()
