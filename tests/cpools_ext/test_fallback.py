"""The package without its binary, or with one that does not load, in a separate process."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cpools_ext import __main__, native, reference

ROOT = Path(__file__).resolve().parents[2]

# Everything that imports and uses the operators, with the log on standard output.
USE = """
import importlib.util, logging, sys
logging.basicConfig(level=logging.INFO, format="LOG %(message)s", stream=sys.stdout)
find_spec = importlib.util.find_spec
class Spec: origin = {origin!r}
importlib.util.find_spec = lambda name, *a: (
    (Spec if Spec.origin else None) if name == "_cpools_ext" else find_spec(name, *a))
import torch
from cpools_ext import corner_pool, corner_pool_sum
print("imported")
x = torch.tensor([[1., 3., 2., 3.], [0., 1., 1., 4.]], requires_grad=True)
y = corner_pool(x, "right")
y.sum().backward()
print(y.tolist(), x.grad.tolist())
print(corner_pool_sum(x, x, "top_left").tolist())
if Spec.origin is None:  # with a broken binary the operators are the same ones
    compiled = torch.compile(lambda x: corner_pool(x, "top"), fullgraph=True, backend="aot_eager")
    print(torch.equal(compiled(x), corner_pool(x, "top")))
    torch.library.opcheck(torch.ops.cpools_ext.corner_pool, (torch.randn(1, 2, 3, 9), -1, True))
from cpools_ext import __main__
print(__main__.main())
"""


def use(origin: str | None) -> list[str]:
    command = [sys.executable, "-c", USE.format(origin=origin)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def check_results(lines: list[str]) -> str:
    """Checks what :data:`USE` printed, and returns the notice."""
    assert lines[0] == "imported"  # without a message
    notice = lines[1]
    assert notice.startswith("LOG corner pooling runs in standard PyTorch")
    assert "--no-build-isolation" in notice
    assert lines[2] == (
        "[[1.0, 3.0, 3.0, 3.0], [0.0, 1.0, 1.0, 4.0]] [[1.0, 3.0, 0.0, 0.0], [1.0, 2.0, 0.0, 1.0]]"
    )
    assert lines[3] == "[[4.0, 6.0, 5.0, 7.0], [4.0, 5.0, 5.0, 8.0]]"
    assert lines[-1] == "0"
    assert not any("runs in standard PyTorch" in line for line in lines[2:])
    return notice


def test_without_a_binary() -> None:
    lines = use(None)
    assert "were not built" in check_results(lines)
    assert lines[4] == "True"  # compiled
    assert any("nothing native" in line for line in lines)


def test_with_a_broken_binary(tmp_path: Path) -> None:
    broken = tmp_path / "_cpools_ext.abi3.so"
    broken.write_bytes(b"cpools_ext for torch %s\0not a library" % torch.__version__.encode())
    assert f"{broken} does not load" in check_results(use(str(broken)))


@pytest.mark.parametrize("content, release", [(b"cpools_ext for torch 2.3.1", "2.3"), (b"", "of")])
def test_a_binary_for_another_torch_is_left_alone(
    content: bytes, release: str, tmp_path: Path, monkeypatch, caplog
) -> None:
    other = tmp_path / "_cpools_ext.abi3.so"
    other.write_bytes(content)
    monkeypatch.setattr(native, "binary", lambda: str(other))
    native.load.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert f"was built for torch {release}" in (native.load() or "")
        native.load()
    native.load.cache_clear()
    assert len(caplog.records) == 1
    assert "`pip install --no-build-isolation .` builds them again" in caplog.text


def test_the_binary_says_for_which_torch_it_was_built() -> None:
    if native.load() is not None:
        pytest.skip(f"no native operators: {native.load()}")
    release = native.built_for(native.binary() or "")
    assert torch.__version__.startswith(f"{release}.")
    assert native.describe_build().startswith(f"torch {release}.")


@pytest.mark.parametrize(
    "twin, spoil, found",
    [
        ("corner_pool", lambda both: (both[0] + 1, both[1]), ["left, ", "top_left, "]),
        ("corner_pool", lambda both: (both[0], both[1] ^ 1), ["left, ", "top_left, "]),
        ("corner_pool_backward", lambda grad: grad + 1, ["gradient of left", "gradients of top_"]),
    ],
)
def test_self_check_finds_a_difference(twin, spoil, found, monkeypatch, caplog) -> None:
    if not native.has_kernel("cpu"):
        pytest.skip(f"nothing native to compare: {native.load()}")
    monkeypatch.setattr(__main__, "active_devices", lambda: ["cpu"])
    right = getattr(reference, twin)
    monkeypatch.setattr(reference, twin, lambda *inputs: spoil(right(*inputs)))
    assert __main__.main() == 1
    for name in found:
        assert f"differs from standard PyTorch on cpu: {name}" in caplog.text
