"""The operators as PyTorch sees them: opcheck, autograd, autocast, vmap, compile, export."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from cpools_ext import CORNERS, DIRECTIONS, corner_pool, corner_pool_sum, native

ROOT = Path(__file__).resolve().parents[2]
OPS = torch.ops.cpools_ext
CHECK_AND_TEST = """
import sys
import pytest
from cpools_ext.__main__ import main
sys.exit(main() or pytest.main(sys.argv[1:]))
"""


class Corner(nn.Module):
    """A corner as the detectors' heads have it."""

    def __init__(self, corner: str) -> None:
        super().__init__()
        self.corner = corner
        self.vertical = nn.Conv2d(3, 4, 3, padding=1)
        self.horizontal = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return corner_pool_sum(self.vertical(x).relu(), self.horizontal(x), self.corner)


def layouts(x: Tensor) -> list[Tensor]:
    columns_first = x.mT.contiguous().mT
    return [x, x.contiguous(memory_format=torch.channels_last), columns_first]


@pytest.mark.slow
@pytest.mark.parametrize("dim, reverse", [(-2, True), (-1, False)])
def test_opcheck(dim: int, reverse: bool) -> None:
    for x in layouts(torch.randn(2, 3, 5, 9)):
        torch.library.opcheck(OPS.corner_pool, (x.requires_grad_(), dim, reverse))
        record = OPS.corner_pool(x, dim, reverse)[1]
        torch.library.opcheck(OPS.corner_pool_backward, (x.detach(), record, dim, reverse))
        for other in layouts(torch.randn(2, 3, 5, 9))[:2]:
            torch.library.opcheck(OPS.corner_pool_sum, (x, other.requires_grad_(), reverse))
        records = OPS.corner_pool_sum(x.detach(), x.detach(), reverse)[1:]
        torch.library.opcheck(OPS.corner_pool_sum_backward, (x.detach(), *records, reverse))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradcheck(direction: str) -> None:
    x = torch.randperm(2 * 3 * 6 * 5).double().view(2, 3, 6, 5).requires_grad_()  # no ties
    assert torch.autograd.gradcheck(lambda x: corner_pool(x, direction), x)


@pytest.mark.parametrize("corner", CORNERS)
def test_gradcheck_sum(corner: str) -> None:
    maps = torch.randperm(2 * 2 * 3 * 6 * 5).double().view(2, 2, 3, 6, 5).unbind()
    maps = tuple(each.requires_grad_() for each in maps)
    assert torch.autograd.gradcheck(lambda *maps: corner_pool_sum(*maps, corner), maps)


def test_double_backward_is_an_error() -> None:
    x = torch.randn(1, 1, 4, 4, requires_grad=True)
    for y in (corner_pool(x, "top"), corner_pool_sum(x, x, "top_left")):
        (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        with pytest.raises(NotImplementedError, match="second derivative"):
            grad.sum().backward()


POOLS = [lambda x: corner_pool(x, "left"), lambda x: corner_pool_sum(x * 2, x, "top_left")]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pool", POOLS)
def test_derivatives_that_would_be_lost_are_errors(pool: Callable[[Tensor], Tensor]) -> None:
    def total(x: Tensor) -> Tensor:
        return pool(x).sum()

    x = torch.randn(2, 3, 4, 4)
    for transformed in (
        torch.func.grad(total),
        torch.vmap(torch.func.grad(total)),
        torch.func.grad(lambda x: torch.vmap(pool)(x).sum()),
        torch.func.jacfwd(total),
        torch.func.hessian(total),
        lambda x: torch.func.vjp(pool, x),
        lambda x: torch.func.jvp(pool, (x,), (x,)),
        lambda x: torch.func.jvp(torch.vmap(pool), (x,), (x,)),
    ):
        with pytest.raises(NotImplementedError, match="corner pooling has no forward-mode"):
            transformed(x)
    with (
        forward_ad.dual_level(),
        pytest.raises(NotImplementedError, match=r"backward\(\) and torch.autograd.grad work"),
    ):
        pool(forward_ad.make_dual(x, torch.ones_like(x)))
    # Functions that need no derivative of the poolings, and torch.autograd, still work.
    torch.func.grad(lambda weight: (pool(x) * weight).sum())(torch.ones(()))
    (grad,) = torch.autograd.grad(total(x.requires_grad_()), x)
    assert grad.sum() == total(torch.ones_like(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    x = torch.randn(1, 3, 8, 8)
    with torch.autocast("cpu", dtype):
        y = Corner("top_left")(x)
        assert y.dtype == dtype
        assert corner_pool(x, "left").dtype == torch.float32
    y.float().sum().backward()


@pytest.mark.parametrize("in_dim", [0, 1, 3])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_vmap(direction: str, in_dim: int) -> None:
    x = torch.randn(2, 3, 4, 5)
    mapped = torch.vmap(lambda x: corner_pool(x, direction), in_dim)(x)
    each = [corner_pool(x, direction) for x in x.unbind(in_dim)]
    assert torch.equal(mapped, torch.stack(each))
    x, grads = x.requires_grad_(), torch.randn(6, 2, 3, 4, 5)
    y = corner_pool(x, direction)
    (mapped,) = torch.autograd.grad(y, x, grads, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(y, x, grad, retain_graph=True)[0] for grad in grads]
    assert torch.equal(mapped, torch.stack(each))


def test_vmap_sum() -> None:
    vertical, horizontal = torch.randn(4, 2, 5, 6), torch.randn(2, 5, 6)
    mapped = torch.vmap(lambda v, h: corner_pool_sum(v, h, "top_left"), (0, None))
    each = [corner_pool_sum(v, horizontal, "top_left") for v in vertical]
    assert torch.equal(mapped(vertical, horizontal), torch.stack(each))
    x, grads = horizontal.requires_grad_(), torch.randn(3, 2, 5, 6)
    y = corner_pool_sum(x, x, "top_left")
    (batched,) = torch.autograd.grad(y, x, grads, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(y, x, grad, retain_graph=True)[0] for grad in grads]
    assert torch.equal(batched, torch.stack(each))


def test_compile_fullgraph() -> None:
    network = Corner("bottom_right")
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    images = [torch.randn(2, 3, 16, 24), torch.randn(1, 3, 9, 24)]
    for x in (*images, images[0].contiguous(memory_format=torch.channels_last)):
        expected, result = network(x), compiled(x)
        torch.testing.assert_close(result, expected)
        expected_grads = torch.autograd.grad(expected.sum(), list(network.parameters()))
        grads = torch.autograd.grad(result.sum(), list(network.parameters()))
        torch.testing.assert_close(grads, expected_grads)


@pytest.mark.slow
def test_compile_inductor() -> None:
    def pool(x: Tensor) -> Tensor:
        return corner_pool(x * 2, "top") + corner_pool(x + 1, "left")

    x = torch.randn(2, 3, 16, 24)
    torch.testing.assert_close(torch.compile(pool, fullgraph=True)(x), pool(x))


def test_export() -> None:
    network, image = Corner("top_left").eval(), torch.randn(2, 3, 16, 24)
    batch = torch.export.Dim("batch", min=1, max=8)
    height = torch.export.Dim("height", min=9, max=64)
    exported = torch.export.export(network, (image,), dynamic_shapes={"x": {0: batch, 2: height}})
    assert "cpools_ext" not in str(exported.graph)  # other runtimes do not have it
    for x in (image, torch.randn(5, 3, 40, 24)):
        torch.testing.assert_close(exported.module()(x), network(x))


@pytest.mark.rare
def test_other_instruction_set() -> None:
    """The kernels for any processor of the family, which PyTorch's own switch selects."""
    if native.load() is not None:
        pytest.skip(f"no native operators: {native.load()}")
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}
    tests = ["tests/cpools_ext/test_operators.py", "tests/cpools_ext/test_sum.py"]
    chosen = "golden or special or channels_last or equals_two or threads"
    argv = ["-x", "-p", "no:cacheprovider", *tests, "-k", chosen]
    done = subprocess.run(
        [sys.executable, "-c", CHECK_AND_TEST, *argv],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "CPU: native; baseline kernels" in done.stdout and " passed" in done.stdout
