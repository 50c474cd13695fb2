"""The cross-star convolution: a loop over cells and taps, and cells that give what maps do."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from core.layers.cross_star import CrossStarConv, GuidedShift
from cpools_ext.corners import gather_cells
from cpools_ext.windows import gather_windows

CORNERS = [0, 8, 54, 62]  # of a map of 7 x 9 cells
EVERY = torch.arange(63).expand(2, -1)


def random_star(channels=4, kernel=3, seed=0):
    """A convolution with offsets of some cells."""
    torch.manual_seed(seed)
    star = CrossStarConv(channels, kernel).double()
    for parameter in star.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return star


def random_shift(dtype=torch.double):
    """Heads whose guiding shifts and offsets are of some cells."""
    torch.manual_seed(0)
    shift = GuidedShift(4).to(dtype)
    for parameter in shift.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return shift


def random_maps(channels=4, seed=1):
    """Features and guiding shifts; taps leave the map on all its sides."""
    torch.manual_seed(seed)
    return torch.randn(2, channels, 7, 9).double(), torch.randn(2, 2, 7, 9).double() * 3


def read(image, y, x):
    """The vector at a point of an image [C, H, W], which is 0 around."""
    _, height, width = image.shape
    top, left = int(np.floor(y)), int(np.floor(x))
    total = np.zeros(len(image))
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < height and 0 <= column < width:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * image[:, row, column]
    return total


def by_loop(star, features, guiding):
    """The convolution [B, C, H, W] by a loop over cells and taps."""
    linear = star.offset.weight.detach().numpy()[:, :, 0, 0]
    taps = star.weight.detach().numpy()
    output = np.zeros(features.shape)
    half = star.kernel // 2
    for row, (image, guides) in enumerate(zip(features.numpy(), guiding.numpy(), strict=True)):
        for y, x in np.ndindex(image.shape[1:]):
            offsets = linear @ guides[:, y, x]
            for tap, (i, j) in enumerate(np.ndindex(star.kernel, star.kernel)):
                dy, dx = offsets[2 * tap : 2 * tap + 2]
                found = read(image, y + i - half + dy, x + j - half + dx)
                output[row, :, y, x] += taps[:, :, i, j] @ found
    return output


@pytest.mark.parametrize("kernel", [1, 3])
def test_equals_a_loop_over_cells_and_taps(kernel):
    star, (features, guiding) = random_star(kernel=kernel), random_maps()
    expected = by_loop(star, features, guiding)
    assert np.abs(expected).max() > 1
    with torch.no_grad():
        np.testing.assert_allclose(star(features, guiding), expected, atol=1e-10)
        windows = star.in_windows(features, gather_windows(guiding, EVERY, 1), EVERY)
    found = windows.unflatten(0, (2, 7, 9)).flatten(4).squeeze(4).permute(0, 3, 1, 2)
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_without_a_guiding_shift_it_is_a_plain_convolution():
    star, (features, guiding) = random_star(), random_maps()
    plain = F.conv2d(features, star.weight, padding=1)
    torch.testing.assert_close(star(features, 0 * guiding), plain)
    windows = star.in_windows(features, torch.zeros(126, 2, 3, 3).double(), EVERY)
    torch.testing.assert_close(windows, gather_windows(plain, EVERY, 3))
    assert not torch.allclose(star(features, guiding), plain)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_cells_are_those_of_the_map(layout):
    shift, (features, _) = random_shift(), random_maps()
    shift, features = shift.to(memory_format=layout), features.contiguous(memory_format=layout)
    features.requires_grad_()
    cells = torch.randint(63, (2, 12))
    cells[:, :4] = torch.tensor(CORNERS)
    cells[:, 4] = cells[:, 5]  # one cell twice
    found, maps = shift(features, cells), shift(features)
    expected = tuple(gather_cells(map_, cells) for map_ in maps)
    torch.testing.assert_close(found, expected)
    of, weights = [features, *shift.parameters()], torch.randn(2, 2, 12, 2).double()
    gradients = [
        torch.autograd.grad((torch.stack(vectors) * weights).sum(), of)
        for vectors in (found, expected)
    ]
    torch.testing.assert_close(*gradients)
    assert all(gradient.any() for gradient in gradients[0])


@pytest.mark.parametrize("cells", [None, EVERY])
def test_the_guiding_shift_learns_from_its_own_loss_alone(cells):
    shift, (features, _) = random_shift(), random_maps()
    guiding, centripetal = shift(features, cells)
    centripetal.sum().backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in shift.guide.parameters())
    assert all(p.grad.any() for p in (*shift.star.parameters(), *shift.head.parameters()))
    shift.zero_grad()
    guiding.sum().backward()
    assert all(parameter.grad.any() for parameter in shift.guide.parameters())
    assert all(p.grad is None for p in (*shift.star.parameters(), *shift.head.parameters()))


@pytest.mark.parametrize("cells", [None, EVERY])
def test_half_precision(cells):
    shift, (features, _) = random_shift(torch.float32), random_maps()
    features = features.bfloat16()  # as they come from the layers before
    expected = shift(features.float(), cells)
    with torch.autocast("cpu", torch.bfloat16):
        found = shift(features, cells)
    for half, exact in zip(found, expected, strict=True):
        assert half.dtype == torch.bfloat16
        assert (half.float() - exact).norm() <= 0.03 * exact.norm()


def test_positions_are_exact_in_half_precision():
    """A bfloat16 next to cell 300 would be 2 cells off."""
    star, cells = random_star(2, 1).float(), torch.tensor([[299, 301]])
    with torch.no_grad():
        star.offset.weight.copy_(torch.tensor([[0.0, 0], [1, 0]])[:, :, None, None])
        star.weight.copy_(torch.eye(2)[:, :, None, None])
    ramp = torch.arange(400.0).remainder(7).expand(1, 2, 1, -1)
    guiding = torch.full((2, 2, 1, 1), 0.25)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = star.in_windows(ramp, guiding, cells).float()
    assert found[:, 0].flatten().tolist() == [5.25, 0.25]


@pytest.mark.parametrize("value", [1e12, -1e30, float("inf"), float("nan")])
def test_taps_far_from_the_map_read_nothing(value):
    star, (features, _) = random_star(), random_maps()
    with torch.no_grad():
        star.offset.weight.abs_()
        found = star.in_windows(features, torch.full((126, 2, 1, 1), value).double(), EVERY)
    assert not torch.nan_to_num(found).any()


def test_no_cells():
    features = torch.randn(2, 4, 5, 5)
    guiding, shift = GuidedShift(4)(features, torch.zeros(2, 0, dtype=torch.int64))
    assert guiding.shape == shift.shape == (2, 0, 2)


@pytest.mark.slow  # a C++ compiler makes programs of both passes
def test_compiled_to_native_code():
    torch._dynamo.reset()
    plain, (features, _) = random_shift(), random_maps()
    other = copy.deepcopy(plain)
    compiled = torch.compile(other, dynamic=True, fullgraph=True)
    for count in (3, 5, 2):  # strides that depend on it are a matter of the second time
        cells = torch.randint(63, (2, count))
        for module in (plain, compiled):
            torch.cat(module(features, cells)).square().sum().backward()
        gradients = [[p.grad for p in module.parameters()] for module in (plain, other)]
        torch.testing.assert_close(*gradients)
    torch._dynamo.reset()
