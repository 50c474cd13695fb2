"""Corner pooling against a naive loop, golden data and standard PyTorch, native and fallback."""

import logging
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cpools_ext import DIRECTIONS, corner_pool, native, ops, reference
from tests.support.cpools_devices import DTYPES, skip_without_kernel, to_device

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "corner_pool.npz")
SHAPES = [(2, 3, 7, 9), (1, 1, 16, 16), (3, 2, 1, 33), (2, 5, 40, 1), (1, 4, 67, 70), (5, 9, 2, 3)]
LAYOUTS = ["contiguous", "channels_last", "strided"]

Pool = Callable[[Tensor, int, bool], tuple[Tensor, Tensor]]


def random_map(shape: tuple[int, ...], dtype: torch.dtype, layout: str, ties: bool, seed: int):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 4, shape) if ties else rng.standard_normal(shape)
    x = torch.from_numpy(values).to(dtype)
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        return torch.stack([x, x + 1], -1)[..., 0]
    return x


def naive(x: np.ndarray, grad: np.ndarray, dim: int, reverse: bool) -> tuple[np.ndarray, ...]:
    """The maxima and the gradient, one position after the other by the definition, in float64."""
    maxima, result = np.empty_like(x), np.zeros_like(grad)
    values, out, grads, sums = (np.moveaxis(a, dim, -1) for a in (x, maxima, grad, result))
    best = np.full(values.shape[:-1], -1)
    lines = np.indices(best.shape)
    for i in range(values.shape[-1])[:: -1 if reverse else 1]:
        newer = (best < 0) | (values[..., i] > values[(*lines, best)]) | np.isnan(values[..., i])
        best[newer] = i
        out[..., i] = values[(*lines, best)]
        sums[(*lines, best)] += grads[..., i]
    return maxima, result


def run(x: Tensor, grad: Tensor, direction: str, path: str) -> tuple[Tensor, Tensor]:
    """Maxima and gradient by the operator on a device, or by the fallback."""
    if path == "fallback":
        maxima, record = reference.corner_pool(x, *DIRECTIONS[direction])
        return maxima, reference.corner_pool_backward(grad, record, *DIRECTIONS[direction])
    leaf = to_device(x, path) if path == "cuda" else x.detach()
    maxima = corner_pool(leaf.requires_grad_(), direction)
    maxima.backward(to_device(grad, path) if path == "cuda" else grad)
    return maxima.detach().cpu(), leaf.grad.cpu()


@pytest.fixture(params=["cpu", "fallback", pytest.param("cuda", marks=pytest.mark.cuda)])
def path(request: pytest.FixtureRequest) -> str:
    if request.param != "fallback":
        skip_without_kernel(request.param)
    return request.param


@pytest.mark.parametrize("case", GOLDEN["cases"].tolist())
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_golden(case: str, direction: str, path: str) -> None:
    x, grad = (torch.from_numpy(GOLDEN[f"{case}_{name}"]) for name in "xg")
    maxima, grad_input = run(x, grad, direction, path)
    np.testing.assert_array_equal(maxima, GOLDEN[f"{case}_{direction}_y"])
    expected = GOLDEN[f"{case}_{direction}_gx"]  # added in the order of the scan, ours against it
    np.testing.assert_allclose(grad_input, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_definition(direction: str, dtype: torch.dtype, layout: str, ties: bool, path: str) -> None:
    for seed, shape in enumerate(SHAPES):
        x = random_map(shape, dtype, layout, ties, seed)
        grad = random_map(shape, dtype, layout, ties, seed + 100)
        before = x.clone()
        maxima, grad_input = run(x, grad, direction, path)
        expected = naive(x.double().numpy(), grad.double().numpy(), *DIRECTIONS[direction])
        assert maxima.dtype == dtype and torch.equal(x, before)
        np.testing.assert_array_equal(maxima.double(), expected[0])
        tolerance = {torch.bfloat16: 2e-2, torch.float16: 2e-3}.get(dtype, 1e-5)
        np.testing.assert_allclose(grad_input.double(), expected[1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_special_values(direction: str, dtype: torch.dtype, path: str) -> None:
    """NaN as in torch.cummax; infinities, signed zeros and subnormal numbers as any value."""
    tiny = torch.finfo(dtype).smallest_normal / 2
    pool = torch.tensor([math.nan, -math.inf, math.inf, 0.0, -0.0, tiny, -tiny, 1.0, -65504.0])
    rng = np.random.default_rng(5)
    index = rng.choice(len(pool), (3, 5, 19, 21), p=[0.02, 0.3, 0.02, *[0.11] * 6])
    x = pool[torch.from_numpy(index)].to(dtype)
    grad = random_map((3, 5, 19, 21), dtype, "contiguous", True, 6)
    maxima, grad_input = run(x, grad, direction, path)
    dim, reverse = DIRECTIONS[direction]
    flipped = x.flip(dim) if reverse else x
    cummax = flipped.cummax(dim).values
    torch.testing.assert_close(
        maxima, cummax.flip(dim) if reverse else cummax, rtol=0, atol=0, equal_nan=True
    )
    expected = naive(x.double().numpy(), grad.double().numpy(), dim, reverse)[1]
    np.testing.assert_allclose(grad_input.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_first_of_equal_zeros_keeps_its_sign(direction: str) -> None:
    skip_without_kernel("cpu")
    x = torch.zeros(1, 1, 21, 21)
    x[..., [0, -1]] = x[..., [0, -1], :] = -0.0
    assert corner_pool(x, direction).signbit().all()


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_empty(shape: tuple[int, ...], direction: str, path: str) -> None:
    maxima, grad_input = run(torch.zeros(shape), torch.zeros(shape), direction, path)
    assert maxima.shape == grad_input.shape == shape


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_channels_last_is_kept(direction: str) -> None:
    x = torch.randn(2, 8, 6, 7).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = corner_pool(x, direction)
    y.sum().backward(retain_graph=True)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert x.grad.is_contiguous(memory_format=torch.channels_last)
    expected, x.grad = x.grad, None
    y.backward(torch.ones(2, 8, 6, 7))  # of another layout than the forward pass had
    assert torch.equal(x.grad, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_native_and_fallback_agree_bit_for_bit(direction: str, dtype: torch.dtype) -> None:
    """Sums of gradients too: both add from the scan's end to its start."""
    skip_without_kernel("cpu")
    dim, reverse = DIRECTIONS[direction]
    for layout in ("contiguous", "channels_last"):
        x, grad = (random_map((2, 9, 37, 69), dtype, layout, False, seed) for seed in (3, 4))
        _, record = torch.ops.cpools_ext.corner_pool(x, dim, reverse)
        expected = reference.corner_pool_backward(grad, record, dim, reverse)
        assert torch.equal(record, reference.corner_pool(x, dim, reverse)[1])
        assert torch.equal(
            torch.ops.cpools_ext.corner_pool_backward(grad, record, dim, reverse), expected
        )
        assert record.numel() * 2 < x.numel()


def test_errors() -> None:
    with pytest.raises(ValueError, match="top, bottom, left, right"):
        corner_pool(torch.zeros(1, 1, 2, 2), "up")
    with pytest.raises(ValueError, match="int64"):
        corner_pool(torch.zeros(1, 1, 2, 2, dtype=torch.int64), "top")
    with pytest.raises(ValueError, match="float8"):
        corner_pool(torch.zeros(1, 1, 2, 2).to(torch.float8_e4m3fn), "top")
    with pytest.raises(ValueError, match="H, W"):
        corner_pool(torch.zeros(3), "top")
    with pytest.raises(ValueError, match="record"):
        torch.ops.cpools_ext.corner_pool_backward(
            torch.zeros(2, 9), torch.zeros(2, 1, dtype=torch.uint8), -1, False
        )
    with pytest.raises(NotImplementedError, match="double backward"):
        x = torch.randn(1, 1, 4, 4, requires_grad=True)
        (grad,) = torch.autograd.grad(corner_pool(x, "top").square().sum(), x, create_graph=True)
        grad.sum().backward()


def test_the_fallback_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    native.announce_fallback.cache_clear()
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            ops._corner_pool_fallback(torch.zeros(1, 1, 2, 2), -1, False)
    assert len(caplog.records) == 1 and "--no-build-isolation" in caplog.text
