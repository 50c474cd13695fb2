"""The package without its binary, or with one that does not load, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

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
    """Checks what :data:`USE` printed, and gives the notice."""
    assert lines[0] == "imported"  # without a word
    notice = lines[1]
    assert notice.startswith("LOG corner pooling runs in standard PyTorch")
    assert "--no-build-isolation" in notice
    assert lines[2] == (
        "[[1.0, 3.0, 3.0, 3.0], [0.0, 1.0, 1.0, 4.0]] [[1.0, 3.0, 0.0, 0.0], [1.0, 2.0, 0.0, 1.0]]"
    )
    assert lines[3] == "[[4.0, 6.0, 5.0, 7.0], [4.0, 5.0, 5.0, 8.0]]"
    assert lines[4] == "True" and lines[-1] == "0"
    assert not any("runs in standard PyTorch" in line for line in lines[2:])
    return notice


def test_without_a_binary() -> None:
    lines = use(None)
    assert "were not built" in check_results(lines)
    assert any("nothing native" in line for line in lines)


def test_with_a_broken_binary(tmp_path: Path) -> None:
    broken = tmp_path / "_cpools_ext.abi3.so"
    broken.write_bytes(b"not a library")
    assert f"{broken} does not load" in check_results(use(str(broken)))


def test_self_check_finds_a_difference(monkeypatch, caplog) -> None:
    import torch

    from cpools_ext import __main__, native, reference

    if not native.has_kernel("cpu"):
        pytest.skip(f"nothing native to compare: {native.load()}")
    right = reference.corner_pool
    monkeypatch.setattr(__main__, "active_devices", lambda: ["cpu"])
    monkeypatch.setattr(
        reference, "corner_pool", lambda x, *a: (right(x, *a)[0] + 1, right(x, *a)[1])
    )
    assert __main__.main() == 1
    assert "differs from standard PyTorch on cpu" in caplog.text
    assert torch.is_tensor(right(torch.zeros(1, 1, 2, 2), -1, False)[0])
