"""The ways on which the operators are tested, and maps on a device."""

import pytest
import torch
from torch import Tensor

from cpools_ext import native, reference

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


def skip_without_kernel(device: str) -> None:
    """Skips a test of a device that is not here, or for which nothing was built."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if not native.has_kernel(device):
        pytest.skip(f"no native operators on {device}: {native.load() or 'not built for it'}")


def to_device(x: Tensor, device: str) -> Tensor:
    """A copy on a device with the same strides, those of a view into more memory too."""
    result = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=device)
    return result.copy_(x)


def random_values(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Many ties, infinities and a few NaN."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-3, 4, shape, generator=generator).double() / 4
    rare = torch.rand(shape, generator=generator)
    values[rare < 0.02] = float("inf")
    values[rare > 0.95] = -float("inf")
    values[(rare > 0.5) & (rare < 0.505)] = float("nan")
    return values.to(dtype)


def assert_gradient(found: Tensor, grad: Tensor, record: Tensor, dim: int, reverse: bool) -> None:
    """That of the twin, up to the order of the additions and the rounding of the result."""
    expected = reference.corner_pool_backward(grad.double(), record, dim, reverse)
    summands = reference.corner_pool_backward(grad.double().abs(), record, dim, reverse)
    tolerance = torch.finfo(found.dtype).eps * expected.abs() + 1e-6 * summands
    assert (found[summands == 0] == 0).all()
    assert ((found.double() - expected).abs() <= tolerance).all()
