"""Focal loss: the operator in standard PyTorch, and its CUDA kernels, emulated and on a GPU."""

import ctypes
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from cpools_ext import __main__
from cpools_ext.focal import focal_loss
from tests.support.cuda_emulation import compile_emulated

ENTRY = """
using cpools::Element, cpools::FocalMaps;
extern "C" void loss(
    int element, const void* logits, const float* target, const uint8_t* valid, int64_t cells,
    int blocks, float* partial, float* loss, float* divisor) {
  const FocalMaps maps{static_cast<Element>(element), logits, target, valid, cells};
  cpools::cuda::focal_loss(maps, blocks, partial, loss, divisor, nullptr);
}
extern "C" void gradient(
    int element, const void* logits, const float* target, const uint8_t* valid, int64_t cells,
    int blocks, const float* upstream, const float* divisor, void* gradient) {
  const FocalMaps maps{static_cast<Element>(element), logits, target, valid, cells};
  cpools::cuda::focal_loss_backward(maps, blocks, upstream, divisor, gradient, nullptr);
}
extern "C" int launches() { return std::exchange(launch_count, 0); }
"""

ELEMENTS = {torch.float32: 0, torch.bfloat16: 2, torch.float16: 3}
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": Tensor.contiguous,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "columns first": lambda x: x.mT.contiguous().mT,
    "half of a map": lambda x: torch.stack((x, x), 4)[..., 0],
}
VALID = {"": None, "bytes": torch.uint8, "bools": torch.bool, "numbers": torch.float32}


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    library = compile_emulated("focal.cu", ENTRY, 5, tmp_path_factory.mktemp("emulation"))
    given = [ctypes.c_int, *[ctypes.c_void_p] * 3, ctypes.c_int64, ctypes.c_int]
    library.loss.argtypes = library.gradient.argtypes = [*given, *[ctypes.c_void_p] * 3]
    return library


def case(
    shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, a target, and 0 or 1 where cells cost nothing or do.

    Some logits are clamped. None is so near to the limit that rounding decides.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = (5 * torch.randn(shape, generator=generator)).to(dtype)
    logits[(logits.abs() - 9.21).abs() < 0.01] = 9
    target = torch.rand(shape, generator=generator)
    target[torch.rand(shape, generator=generator) < 0.1] = 1
    target[torch.rand(shape, generator=generator) < 0.3] = 0
    return logits, target, (torch.rand(shape, generator=generator) > 0.3).byte()


def run_emulated(
    library: ctypes.CDLL, maps: tuple[Tensor, Tensor, Tensor | None], blocks: int, upstream: float
) -> tuple[Tensor, Tensor]:
    """Loss and gradient."""
    logits, target, valid = maps
    assert logits.is_contiguous() and target.is_contiguous()
    place = None if valid is None else valid.data_ptr()
    inputs = logits.data_ptr(), target.data_ptr(), place, logits.numel(), blocks
    partial, loss, divisor = torch.full((2 * blocks,), 77.0), torch.tensor(77.0), torch.tensor(77.0)
    numbers = (each.data_ptr() for each in (partial, loss, divisor))
    library.loss(ELEMENTS[logits.dtype], *inputs, *numbers)
    gradient, given = torch.full_like(logits, 77), torch.tensor(upstream)
    numbers = (each.data_ptr() for each in (given, divisor, gradient))
    library.gradient(ELEMENTS[logits.dtype], *inputs, *numbers)
    return loss, gradient


def by_formula(
    maps: tuple[Tensor, Tensor, Tensor | None], upstream: float
) -> tuple[Tensor, Tensor]:
    """Loss and gradient in float64, by autograd."""
    logits, target, valid = (each if each is None else each.double().cpu() for each in maps)
    logits = logits.detach().requires_grad_()
    p, positive = logits.sigmoid().clamp(1e-4, 1 - 1e-4), target == 1
    cost = torch.where(positive, p.log() * (1 - p) ** 2, (1 - p).log() * p**2 * (1 - target) ** 4)
    if valid is not None:
        cost = cost * valid
    loss = -cost.sum() / max(1, int(positive.sum()))
    return loss.detach(), torch.autograd.grad(loss, logits, torch.tensor(upstream).double())[0]


def run(maps: tuple[Tensor, Tensor, Tensor | None], upstream: float) -> tuple[Tensor, Tensor]:
    """Loss and gradient of the operator."""
    logits = maps[0].detach().requires_grad_()
    loss = focal_loss(logits, *maps[1:])
    return loss.detach(), torch.autograd.grad(loss, logits, loss.new_tensor(upstream))[0]


def assert_close(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    """Up to rounding in float32, and that of the result."""
    torch.testing.assert_close(found[0].cpu().double(), expected[0].double(), rtol=5e-6, atol=1e-9)
    rounding = max(1e-5, torch.finfo(found[1].dtype).eps)
    wanted = expected[1].double()
    torch.testing.assert_close(found[1].cpu().double(), wanted, rtol=rounding, atol=2e-7)


# Without a remainder of four cells, with one, and several rounds of two blocks.
@pytest.mark.parametrize(("cells", "blocks"), [(432, 1), (77, 1), (5000, 2)])
@pytest.mark.parametrize("dtype", ELEMENTS)
def test_emulated_kernels(
    emulated: ctypes.CDLL, dtype: torch.dtype, cells: int, blocks: int
) -> None:
    for masked in (False, True):
        logits, target, valid = case((cells,), dtype, seed=cells)
        maps = logits, target, valid if masked else None
        emulated.launches()
        found = run_emulated(emulated, maps, blocks, 3.0)
        assert emulated.launches() == 3
        assert_close(found, by_formula(maps, 3.0))
        loss, gradient = run(maps, 3.0)
        assert_close(found, (loss, gradient))
        assert torch.equal(found[1] == 0, gradient == 0)


def shifted_maps(device: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Maps of 64 cells, one of which does not begin where four cells can be loaded at once."""
    maps = [each.to(device) for each in case((65,), torch.bfloat16)]
    for shifted in range(3):
        logits, target, valid = (x[1:] if i == shifted else x[:-1] for i, x in enumerate(maps))
        yield logits, target, valid


def test_emulated_kernels_off_16_bytes(emulated: ctypes.CDLL) -> None:
    for maps in shifted_maps("cpu"):
        assert_close(run_emulated(emulated, maps, 1, 1.0), by_formula(maps, 1.0))


def test_emulated_kernels_with_logits_that_are_no_probability(emulated: ctypes.CDLL) -> None:
    infinity = float("inf")
    logits = torch.tensor([-infinity, infinity, -infinity, infinity, -100.0, 100.0, 0.0, 0.5])
    target = torch.tensor([0.0, 0, 1, 1, 1, 0, 1, 0])
    found = run_emulated(emulated, (logits, target, None), 1, 1.0)
    assert_close(found, by_formula((logits, target, None), 1.0))
    logits[5] = float("nan")
    loss, gradient = run_emulated(emulated, (logits, target, None), 1, 1.0)
    assert loss.isnan() and gradient.isnan().nonzero().flatten().tolist() == [5]


def test_emulated_kernels_without_a_keypoint(emulated: ctypes.CDLL) -> None:
    logits, target, _ = case((96,), torch.float32)
    maps = logits, target * 0.9, None
    assert_close(run_emulated(emulated, maps, 1, 1.0), by_formula(maps, 1.0))


@pytest.mark.parametrize("valid", VALID)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_have_the_same_loss(layout: str, valid: str) -> None:
    logits, target, kept = case((2, 3, 8, 9), torch.float32)
    mask = None if VALID[valid] is None else kept.to(VALID[valid])
    expected = by_formula((logits, target, mask), 3.0)
    for arranged in LAYOUTS.values():
        maps = LAYOUTS[layout](logits), arranged(target), None if mask is None else arranged(mask)
        loss, gradient = run(maps, 3.0)
        assert_close((loss, gradient), expected)
        last = torch.channels_last
        assert gradient.is_contiguous(memory_format=last) == (layout == "channels_last")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [*ELEMENTS, torch.float64])
def test_shapes_without_values(dtype: torch.dtype, layout: str) -> None:
    maps = tuple(map(LAYOUTS[layout], case((2, 3, 8, 9), dtype)))
    here, there = run(maps, 1.0), run(tuple(each.to("meta") for each in maps), 1.0)
    for one, other in zip(here, there, strict=True):
        assert (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())


def test_what_is_refused() -> None:
    x = torch.zeros(1, 1, 2, 2)
    for given in ((x, torch.zeros(1, 1, 2, 3)), (x, x, torch.zeros(1, 1, 2, 1))):
        with pytest.raises(
            ValueError, match=r"must agree, not \(1, 1, 2, 2\) and \(1, 1, 2, [13]\)"
        ):
            focal_loss(*given)


def test_the_self_check_compares_focal_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.randn(1, 3, 5, 6), torch.randint(-8, 9, (1, 3, 5, 6)) / 4
    assert [same for _, same in __main__._compare_focal_loss("", x, y, "cpu")] == [True] * 2
    factors = iter((1, 1.01))
    monkeypatch.setattr(__main__, "focal_loss", lambda *maps: focal_loss(*maps) * next(factors))
    assert [same for _, same in __main__._compare_focal_loss("", x, y, "cpu")] == [False] * 2


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [*ELEMENTS, torch.float64])
def test_cuda(dtype: torch.dtype, layout: str) -> None:
    for shape in ((2, 3, 8, 9), (1, 1, 5, 7), (2, 80, 67, 64)):
        for kind in VALID.values():
            logits, target, kept = (each.cuda() for each in case(shape, dtype))
            valid = None if kind is None else kept.to(kind)
            maps = LAYOUTS[layout](logits), target, valid
            found = run(maps, 3.0)
            assert_close(found, by_formula(maps, 3.0))
            assert found[1].dtype == dtype and found[1].stride() == run_here(maps).stride()
            assert all(map(torch.equal, found, run(maps, 3.0)))


def run_here(maps: tuple[Tensor, Tensor, Tensor | None]) -> Tensor:
    """Gradient on the CPU, by standard PyTorch."""
    return run(tuple(each if each is None else each.cpu() for each in maps), 3.0)[1]


@pytest.mark.cuda
@needs_cuda
def test_cuda_off_16_bytes() -> None:
    for maps in shifted_maps("cuda"):
        assert_close(run(maps, 1.0), by_formula(maps, 1.0))


@pytest.mark.cuda
@needs_cuda
def test_cuda_takes_three_launches_that_a_graph_records() -> None:
    last = torch.channels_last
    maps = [
        each.cuda().contiguous(memory_format=last) for each in case((2, 8, 16, 16), torch.bfloat16)
    ]
    run(tuple(maps), 3.0)
    upstream, logits = torch.tensor(3.0, device="cuda"), maps[0].requires_grad_()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = focal_loss(*maps)
        (gradient,) = torch.autograd.grad(loss, logits, upstream)
    with torch.no_grad():
        for each, other in zip(maps, case((2, 8, 16, 16), torch.bfloat16, seed=1), strict=True):
            each.copy_(other)
    graph.replay()
    assert_close((loss.detach(), gradient), by_formula(tuple(maps), 3.0))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        torch.autograd.grad(focal_loss(*maps), logits, upstream)
        torch.cuda.synchronize()
    kernels = [event.name for event in profile.events() if "(" in event.name]
    assert len(kernels) == 3, kernels
