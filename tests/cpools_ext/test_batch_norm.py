"""Batch norm with an addition and a ReLU: its twin, its CUDA kernels emulated, and on a GPU."""

import ctypes
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cpools_ext import __main__
from cpools_ext import batch_norm as module
from cpools_ext.batch_norm import batch_norm
from tests.support.cpools_devices import skip_without_kernel
from tests.support.cuda_emulation import compile_emulated

ENTRY = """
using namespace cpools;
extern "C" int64_t scratch(int element, int64_t rows, int channels) {
  return cuda::batch_norm_scratch(
      {static_cast<Element>(element), nullptr, rows, channels, nullptr, nullptr, nullptr, nullptr});
}
extern "C" void forward(
    int element, const void* x, int64_t rows, int channels, float** values, bool relu,
    float ceiling, float momentum, double epsilon, int64_t* batches, float* scratch,
    const void* added, void* y) {
  const Normalization norm{
      static_cast<Element>(element), x, rows, channels, values[0], values[1], values[2], values[3],
      relu, ceiling};
  cuda::batch_norm_statistics(
      norm, {values[4], values[5], batches, momentum}, epsilon, scratch, nullptr);
  cuda::batch_norm_apply(norm, added, y, nullptr);
}
extern "C" void backward(
    int element, const void* x, int64_t rows, int channels, float** values, bool relu,
    float ceiling, const void* grad, const void* y, void* masked, float* scratch, float* bias_grad,
    float* weight_grad, void* x_grad) {
  const Normalization norm{
      static_cast<Element>(element), x, rows, channels, values[0], values[1], values[2], values[3],
      relu, ceiling};
  cuda::batch_norm_sums(
      norm, grad, y, masked, scratch, bias_grad, weight_grad, nullptr);
  cuda::batch_norm_gradient(
      norm, masked ? masked : grad, masked != nullptr, bias_grad, weight_grad, x_grad, nullptr);
}
"""
ELEMENTS = {torch.float32: 0, torch.bfloat16: 2, torch.float16: 3}
# Shapes [B, C, H, W]: a tile of vectors that does not divide, one vector, many slabs, four rows.
SHAPES = [(2, 24, 5, 7), (1, 8, 3, 3), (1, 72, 12, 30), (1, 16, 2, 2)]
MOMENTUM, EPS = 0.3, 1e-5
KINDS = [
    (False, None),
    (False, math.inf),
    (True, math.inf),
    (True, None),
    (False, 0.5),
    (True, 1.0),
]


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


class Case:
    """Random inputs of a batch norm whose channels have their own means, and running values."""

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        added: bool,
        ceiling: float | None,
        device: str = "cpu",
    ) -> None:
        generator = torch.Generator().manual_seed(sum(shape))

        def random(*size: int) -> Tensor:
            return torch.randn(*size, generator=generator)

        centers = 5 * random(1, shape[1], 1, 1)
        self.x, self.grad, self.added = (
            channels_last((random(*shape) + more).to(device, dtype))
            for more in (centers, torch.zeros(()), torch.zeros(()))
        )
        if not added:
            self.added = None
        self.weight, self.bias = (random(shape[1]).to(device) for _ in range(2))
        self.running = [random(shape[1]).to(device), random(shape[1]).abs().to(device)]
        self.batches = torch.tensor(3, device=device)
        self.ceiling = ceiling
        if ceiling is not None:  # rounding decides whether a gradient passes next to a limit
            self.ceiling = None
            y = self.expected()[0]
            self.ceiling = ceiling
            self.grad[(y.abs() < 0.05) | ((y - ceiling).abs() < 0.05)] = 0

    def computed(self) -> tuple[Tensor, ...]:
        """Output, gradients of x, of what is added, weight and bias, and the running values."""
        inputs = [self.x, self.weight, self.bias, *([] if self.added is None else [self.added])]
        inputs = [each.detach().clone().requires_grad_() for each in inputs]
        running = [each.clone() for each in (*self.running, self.batches)]
        added = inputs[3] if len(inputs) > 3 else None
        y = batch_norm(inputs[0], tuple(inputs[1:3]), running, MOMENTUM, EPS, added, self.ceiling)
        return y, *torch.autograd.grad(y, inputs, self.grad), *running

    def expected(self) -> tuple[Tensor, ...]:
        """The same by PyTorch in float64."""
        inputs = [self.x, self.weight, self.bias, *([] if self.added is None else [self.added])]
        inputs = [each.detach().double().requires_grad_() for each in inputs]
        running = [each.double() for each in self.running]
        y = F.batch_norm(inputs[0], *running, *inputs[1:3], True, MOMENTUM, EPS)
        if len(inputs) > 3:
            y = y + inputs[3]
        if self.ceiling is not None:
            y = F.hardtanh(y, 0, self.ceiling)
        return y, *torch.autograd.grad(y, inputs, self.grad.double()), *running, self.batches + 1


def assert_equal(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...], dtype: torch.dtype) -> None:
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 1.6e-2, torch.float16: 2e-3}[dtype]
    for a, b in zip(found, wanted, strict=True):
        wide = tolerance if a.dtype == dtype else max(1e-5, tolerance / 10)
        scale = b.abs().max().item()
        torch.testing.assert_close(a.double(), b.double(), rtol=wide, atol=wide * max(scale, 1))


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    library = compile_emulated("batch_norm.cu", ENTRY, 6, tmp_path_factory.mktemp("emulation"))
    library.scratch.restype = ctypes.c_int64
    library.scratch.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int]
    head = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_void_p]
    head += [ctypes.c_bool, ctypes.c_float]
    library.forward.argtypes = [*head, ctypes.c_float, ctypes.c_double, *[ctypes.c_void_p] * 4]
    library.backward.argtypes = [*head, *[ctypes.c_void_p] * 7]
    return library


def by_emulation(library: ctypes.CDLL, case: Case) -> tuple[Tensor, ...]:
    """What :meth:`Case.computed` gives, by the kernels."""
    x, channels, ceiling = case.x, case.x.shape[1], case.ceiling
    element, rows = ELEMENTS[x.dtype], x.numel() // channels
    running = [each.clone() for each in case.running]
    batches = case.batches.clone()
    statistics = [torch.full((channels,), 77.0) for _ in range(2)]
    values = [case.weight, case.bias, *statistics, *running]
    pointers = (ctypes.c_void_p * 6)(*(each.data_ptr() for each in values))
    head: list[Any] = [element, x.data_ptr(), rows, channels, pointers]
    head += [ceiling is not None, math.inf if ceiling is None else ceiling]
    scratch = torch.full((library.scratch(element, rows, channels),), 77.0)
    y, x_grad, masked = (torch.full_like(x, 77) for _ in range(3))
    added = None if case.added is None else case.added.data_ptr()
    library.forward(
        *head, MOMENTUM, EPS, batches.data_ptr(), scratch.data_ptr(), added, y.data_ptr()
    )
    weight_grad, bias_grad = (torch.full((channels,), 77.0) for _ in range(2))
    masks = ceiling is not None and case.added is not None
    library.backward(
        *head, case.grad.data_ptr(), y.data_ptr() if masks else None,
        masked.data_ptr() if masks else None, scratch.data_ptr(), bias_grad.data_ptr(),
        weight_grad.data_ptr(), x_grad.data_ptr(),
    )  # fmt: skip
    added_grad = () if case.added is None else (masked if masks else case.grad,)
    return y, x_grad, weight_grad, bias_grad, *added_grad, *running, batches


@pytest.mark.parametrize(("added", "ceiling"), KINDS)
@pytest.mark.parametrize("dtype", list(ELEMENTS))
def test_the_operator_in_standard_pytorch(
    dtype: torch.dtype, added: bool, ceiling: float | None
) -> None:
    case = Case(SHAPES[0], dtype, added, ceiling)
    assert_equal(case.computed(), case.expected(), dtype)


@pytest.mark.parametrize("dtype", list(ELEMENTS))
def test_the_emulated_kernels(emulated: ctypes.CDLL, dtype: torch.dtype) -> None:
    every = dtype == torch.bfloat16
    cases = [(SHAPES[0], *kind) for kind in (KINDS if every else KINDS[-2:])]
    cases += [(shape, *KINDS[2]) for shape in SHAPES[1 if every else 3 :]]
    for shape, added, ceiling in cases:
        case = Case(shape, dtype, added, ceiling)
        assert_equal(by_emulation(emulated, case), case.expected(), dtype)


def test_a_variance_far_from_zero_is_not_lost(emulated: ctypes.CDLL) -> None:
    case = Case((2, 8, 30, 20), torch.float32, added=False, ceiling=None)
    case.x += 3000
    wanted = case.expected()
    for found in (case.computed(), by_emulation(emulated, case)):
        torch.testing.assert_close(found[0].double(), wanted[0], rtol=0, atol=2e-3)


def test_the_self_check_compares_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(same for _, same in __main__._compare_batch_norm("cpu"))
    results = iter(range(100))
    differing = lambda *_: (torch.tensor(float(next(results))),) * 3  # noqa: E731
    monkeypatch.setattr(torch.ops.cpools_ext, "batch_norm", differing)
    assert not any(same for _, same in __main__._compare_batch_norm("cpu"))


def test_what_has_kernels() -> None:
    on_a_gpu = channels_last(torch.zeros(2, 8, 3, 3, dtype=torch.bfloat16))
    assert module._fits(on_a_gpu)
    assert not module._fits(on_a_gpu.contiguous())
    assert not module._fits(channels_last(torch.zeros(2, 4, 3, 3, dtype=torch.bfloat16)))
    assert module._fits(channels_last(torch.zeros(2, 4, 3, 3)))
    assert not module._fits(on_a_gpu.double())
    assert not module._fits(on_a_gpu[:1, :, :1, :1])  # has no variance
    assert not module.is_native(on_a_gpu)  # it is not on one


@pytest.mark.cuda
@pytest.mark.parametrize(("added", "ceiling"), KINDS)
@pytest.mark.parametrize("dtype", list(ELEMENTS))
def test_on_a_gpu(dtype: torch.dtype, added: bool, ceiling: float | None) -> None:
    skip_without_kernel("cuda")
    for shape in (*SHAPES, (4, 256, 64, 64), (2, 136, 33, 17)):
        case = Case(shape, dtype, added, ceiling, "cuda")
        assert module.is_native(case.x, case.added)
        assert_equal(case.computed(), case.expected(), dtype)


@pytest.mark.cuda
def test_gradients_of_another_layout_on_a_gpu() -> None:
    skip_without_kernel("cuda")
    case = Case(SHAPES[0], torch.bfloat16, True, math.inf, "cuda")
    wanted = case.computed()
    case.grad = case.grad.contiguous()
    case.weight = torch.cat((case.weight[:1], case.weight))[1:]  # at an odd address
    for a, b in zip(case.computed(), wanted, strict=True):
        assert torch.equal(a, b)
