"""The sum of a corner's two poolings against the poolings one by one."""

import pytest
import torch
from torch import Tensor

from cpools_ext import corner_pool, corner_pool_sum, reference, sums
from tests.support.cpools_devices import DEVICES, DTYPES, skip_without_kernel, to_device

PARTS = {"top_left": ("top", "left"), "bottom_right": ("bottom", "right")}
SHAPES = [
    (2, 3, 9, 7),
    (1, 2, 8, 1),
    (1, 4, 64, 80),
    (1, 1, 1, 5),
    (1, 2, 300, 33),
    (3, 20, 40),
]


def maps(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> list[Tensor]:
    tensors = [torch.randint(-9, 9, shape).to(dtype) / 4 for _ in range(3)]
    if layout == "channels_last" and len(shape) == 4:
        tensors = [each.contiguous(memory_format=torch.channels_last) for each in tensors]
    if layout == "mixed":
        tensors[1] = tensors[1].mT.contiguous().mT
    return tensors


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "mixed"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("corner", PARTS)
def test_equals_two_poolings_and_an_addition(
    corner: str, dtype: torch.dtype, layout: str, device: str
) -> None:
    if device == "cuda":
        skip_without_kernel(device)
    for shape in SHAPES:
        vertical, horizontal, grad = (to_device(x, device) for x in maps(shape, dtype, layout))
        before = vertical.clone(), horizontal.clone()
        vertical.requires_grad_(), horizontal.requires_grad_()
        expected = sum(map(corner_pool, (vertical, horizontal), PARTS[corner]))
        expected_grads = torch.autograd.grad(expected, (vertical, horizontal), grad)
        result = corner_pool_sum(vertical, horizontal, corner)
        grads = torch.autograd.grad(result, (vertical, horizontal), grad)
        assert torch.equal(result, expected) and result.dtype == dtype
        assert all(map(torch.equal, grads, expected_grads))
        assert torch.equal(vertical, before[0]) and torch.equal(horizontal, before[1])


@pytest.mark.parametrize("shape", [(2, 150, 260), (3, 150, 260), (2, 150, 1)])
def test_threads_split_the_planes_or_their_lines(shape: tuple[int, ...]) -> None:
    vertical, horizontal, _ = maps(shape, torch.float32, "contiguous")
    expected = corner_pool_sum(vertical, horizontal, "top_left")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(corner_pool_sum(vertical, horizontal, "top_left"), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("reverse", [False, True])
def test_fallback(reverse: bool) -> None:
    vertical, horizontal, _ = maps((2, 3, 20, 17), torch.float32, "contiguous")
    native = torch.ops.cpools_ext.corner_pool_sum(vertical, horizontal, reverse)
    assert all(map(torch.equal, native, sums._fallback(vertical, horizontal, reverse)))
    inputs = (torch.randn(vertical.shape), *native[1:], reverse)
    grads = torch.ops.cpools_ext.corner_pool_sum_backward(*inputs)
    assert all(map(torch.equal, grads, sums._backward_fallback(*inputs)))
    down, _ = reference.corner_pool(vertical, -2, reverse)
    along, _ = reference.corner_pool(horizontal, -1, reverse)
    assert torch.equal(native[0], down + along)


def test_one_map_needs_no_gradient() -> None:
    vertical, horizontal = torch.randn(1, 1, 4, 4, requires_grad=True), torch.randn(1, 1, 4, 4)
    corner_pool_sum(vertical, horizontal, "top_left").sum().backward()
    assert vertical.grad is not None and vertical.grad.sum() == 16


@pytest.mark.parametrize("shape", [(0, 2, 3, 3), (2, 2, 0, 3), (2, 2, 3, 0)])
def test_empty(shape: tuple[int, ...]) -> None:
    assert corner_pool_sum(torch.zeros(shape), torch.zeros(shape), "top_left").shape == shape


def test_errors() -> None:
    x = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="top_left, bottom_right"):
        corner_pool_sum(x, x, "top_right")
    with pytest.raises(ValueError, match="agree"):
        corner_pool_sum(x, torch.zeros(1, 1, 2, 3), "top_left")
    with pytest.raises(ValueError, match="agree"):
        corner_pool_sum(x, x.double(), "top_left")
    with pytest.raises(ValueError, match=r"on cpu and .* on meta"):
        corner_pool_sum(x, x.to("meta"), "top_left")
    with pytest.raises(ValueError, match="int64"):
        corner_pool_sum(x.long(), x.long(), "top_left")
    record = torch.zeros(1, 1, 1, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match="record"):  # that of the rows is given for the columns too
        torch.ops.cpools_ext.corner_pool_sum_backward(x, record, record, True)
