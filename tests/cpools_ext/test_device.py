"""The operators on a GPU, with the record's bits, against the fallback on the CPU."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cpools_ext import CORNERS, DIRECTIONS, corner_pool, reference
from tests.support.cpools_devices import (
    DTYPES,
    assert_gradient,
    random_values,
    skip_without_kernel,
    to_device,
)

pytestmark = pytest.mark.cuda
OPS = torch.ops.cpools_ext
SHAPES = [(2, 3, 7, 9), (4, 16, 128, 128), (1, 5, 500, 3), (2, 2, 3, 700), (1, 1, 1, 1)]


@pytest.fixture(autouse=True)
def native_on_cuda() -> None:
    skip_without_kernel("cuda")


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def columns_first(x: Tensor) -> Tensor:
    return x.mT.contiguous().mT


def off_16_bytes(x: Tensor) -> Tensor:
    """A contiguous copy whose memory does not begin at a multiple of 16 bytes."""
    return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)


def on_gpu(x: Tensor, layout: Callable[[Tensor], Tensor]) -> Tensor:
    return layout(x.cuda())


def same(result: Tensor, expected: Tensor) -> bool:
    return torch.allclose(result.cpu(), expected, rtol=0, atol=0, equal_nan=True)


LAYOUTS = [torch.clone, channels_last, columns_first, off_16_bytes]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_pooling(direction: str, dtype: torch.dtype, layout: Callable[[Tensor], Tensor]) -> None:
    for shape in SHAPES:
        x, grad = random_values(shape, dtype, 1), torch.randn(shape).to(dtype)
        expected, expected_record = reference.corner_pool(x, *DIRECTIONS[direction])
        maxima, record = OPS.corner_pool(on_gpu(x, layout), *DIRECTIONS[direction])
        assert same(maxima, expected) and same(record, expected_record), shape
        grad_input = OPS.corner_pool_backward(on_gpu(grad, layout), record, *DIRECTIONS[direction])
        assert_gradient(grad_input.cpu(), grad, expected_record, *DIRECTIONS[direction])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("corner", CORNERS)
def test_sum(corner: str, dtype: torch.dtype, layout: Callable[[Tensor], Tensor]) -> None:
    reverse = CORNERS[corner]
    for shape in SHAPES:
        x, y = random_values(shape, dtype, 1), random_values(shape, dtype, 2)
        down, down_record = reference.corner_pool(x, -2, reverse)
        along, along_record = reference.corner_pool(y, -1, reverse)
        results = OPS.corner_pool_sum(on_gpu(x, layout), y.cuda(), reverse)
        assert all(map(same, results, (down + along, down_record, along_record))), shape
        grad = torch.randn(shape).to(dtype)
        grads = OPS.corner_pool_sum_backward(on_gpu(grad, layout), *results[1:], reverse)
        assert_gradient(grads[0].cpu(), grad, down_record, -2, reverse)
        assert_gradient(grads[1].cpu(), grad, along_record, -1, reverse)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_current_stream(direction: str) -> None:
    """The kernel waits for the work queued before it on its stream, which is busy for a while."""
    x = random_values((8, 16, 128, 128), torch.float32, 3)
    source, late = x.cuda(), torch.full(x.shape, 77.0, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(200_000_000)
        late.copy_(source)
        maxima = corner_pool(late, direction)
        late.fill_(77)
    torch.cuda.synchronize()
    assert same(maxima, reference.corner_pool(x, *DIRECTIONS[direction])[0])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU at most")
def test_other_device() -> None:
    x = random_values((2, 3, 20, 30), torch.float32, 4)
    maxima = corner_pool(to_device(x, "cuda:1"), "left")
    assert maxima.device.index == 1
    assert same(maxima, reference.corner_pool(x, *DIRECTIONS["left"])[0])
