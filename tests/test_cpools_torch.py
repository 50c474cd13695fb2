"""The operators as PyTorch sees them: opcheck, autograd, autocast, vmap, compile, export."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cpools_ext import CORNERS, DIRECTIONS, corner_pool, corner_pool_sum

ROOT = Path(__file__).resolve().parent.parent
OPS = torch.ops.cpools_ext


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
    return [x, x.contiguous(memory_format=torch.channels_last), x.mT]


@pytest.mark.slow
@pytest.mark.parametrize("dim, reverse", [(-2, True), (-1, False)])
def test_opcheck(dim: int, reverse: bool) -> None:
    for x in layouts(torch.randn(2, 3, 5, 9)):
        torch.library.opcheck(OPS.corner_pool, (x.requires_grad_(), dim, reverse))
        record = OPS.corner_pool(x, dim, reverse)[1]
        torch.library.opcheck(OPS.corner_pool_backward, (x.detach(), record, dim, reverse))
        other = torch.randn_like(x).requires_grad_()
        torch.library.opcheck(OPS.corner_pool_sum, (x, other, reverse))


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
    assert "cpools_ext.corner_pool_sum" in str(exported.graph)
    for x in (image, torch.randn(5, 3, 40, 24)):
        torch.testing.assert_close(exported.module()(x), network(x))


def test_other_instruction_set() -> None:
    """The kernels for any processor of the family, which PyTorch's own switch selects."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command += ["tests/test_cpools_operators.py", "-k", "golden or special", "--no-header"]
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
