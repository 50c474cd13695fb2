"""Fuzzes the CPU operators under the compiler's sanitizers (``make sanitize``).

Builds the extension with AddressSanitizer and UndefinedBehaviorSanitizer in a folder of its own,
and runs itself again with the sanitizers' libraries loaded first. ``python tests/sanitize.py
[seconds]`` fuzzes each instruction set so long; the exit code is 0 if nothing was found.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g1"
LIBRARIES = ("libasan.so", "libubsan.so")
DEFAULT_SECONDS = 15


def main() -> int:
    """Builds, then fuzzes both instruction sets in processes of their own."""
    seconds = sys.argv[1] if len(sys.argv) > 1 else str(DEFAULT_SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        build(folder)
        for capability in ("", "default"):
            environment = {
                **os.environ,
                "LD_PRELOAD": " ".join(map(library, LIBRARIES)),
                # Python and torch hold memory until the end, and torch's own code is not checked.
                "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:alloc_dealloc_mismatch=0",
                "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
                "PYTHONPATH": os.pathsep.join([folder, str(ROOT)]),
                "CPOOLS_FUZZ": folder,
                "ATEN_CPU_CAPABILITY": capability,
            }
            if not capability:
                del environment["ATEN_CPU_CAPABILITY"]
            done = subprocess.run([sys.executable, __file__, seconds], env=environment, cwd=folder)
            if done.returncode:
                return 1
    return 0


def build(folder: str) -> None:
    """Builds the extension with the sanitizers into ``folder``."""
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", folder]
    command += ["--build-temp", str(Path(folder, "temp"))]
    flags = {"CFLAGS": f"{FLAGS} -O1", "CXXFLAGS": f"{FLAGS} -O1", "LDFLAGS": FLAGS}
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **flags}, capture_output=True, text=True
    )
    if done.returncode or not list(Path(folder).glob("_cpools_ext*")):
        sys.exit(f"the sanitized build failed:\n{done.stdout}{done.stderr}")


def library(name: str) -> str:
    """The full path of one of the compiler's libraries."""
    compiler = os.environ.get("CXX", "c++")
    path = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True)
    return path.stdout.strip()


def fuzz(folder: str, seconds: float) -> int:
    """Runs random cases through the operators and compares them with their twins."""
    sys.path.remove(str(Path(__file__).resolve().parent))  # only what PYTHONPATH names
    import torch

    from cpools_ext import native, reference

    binary = native.binary() or ""
    assert native.load() is None and binary.startswith(folder), f"not the sanitized build: {binary}"
    assert native.__file__.startswith(str(ROOT)), f"not this checkout: {native.__file__}"
    rng = random.Random(0)
    ops = torch.ops.cpools_ext
    cases, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        torch.manual_seed(cases)
        torch.set_num_threads(rng.choice((1, 2)))
        x, other, grad = random_maps(rng)
        reverse = rng.random() < 0.5
        for dim in (-2, -1, rng.randrange(-x.dim(), x.dim())):
            maxima, record = ops.corner_pool(x, dim, reverse)
            expected, expected_record = reference.corner_pool(x, dim, reverse)
            assert same(maxima, expected) and torch.equal(record, expected_record), (x.shape, dim)
            result = ops.corner_pool_backward(grad, record, dim, reverse)
            assert same(result, reference.corner_pool_backward(grad, record, dim, reverse))
        down, down_record = reference.corner_pool(x, -2, reverse)
        along, along_record = reference.corner_pool(other, -1, reverse)
        total, *records = ops.corner_pool_sum(x, other, reverse)
        assert same(total, down + along), x.shape
        assert all(map(torch.equal, records, (down_record, along_record))), x.shape
        grads = ops.corner_pool_sum_backward(grad, *records, reverse)
        for found, record, dim in zip(grads, records, (-2, -1), strict=True):
            assert same(found, reference.corner_pool_backward(grad, record, dim, reverse)), x.shape
        run_soft_nms(rng)
        cases += 1
    capability = os.environ.get("ATEN_CPU_CAPABILITY", "the processor's own instructions")
    print(f"sanitized: {cases} cases, nothing found ({capability})")
    return 0


def random_maps(rng: random.Random):
    """Three maps of one random shape and dtype, each with a random layout."""
    import torch

    dtype = rng.choice((torch.float32, torch.float64, torch.bfloat16, torch.float16))
    sides = [rng.choice((0, 1, 2, 3, rng.randrange(1, 70), rng.randrange(1, 300))) for _ in "HW"]
    channels = rng.choice((1, 2, 3, rng.randrange(4, 41)))  # a row of channels_last: many vectors
    if channels > 3:
        sides = [side % 60 for side in sides]
    shape = [*[rng.randrange(1, 4), channels][: rng.randrange(3)], *sides]
    maps = []
    for _ in range(3):
        x = (torch.randint(-5, 6, shape) / 4).to(dtype)
        x[torch.rand(shape) < 0.02] = rng.choice((float("nan"), float("inf"), -float("inf")))
        layout = rng.randrange(4)
        if layout == 1 and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        elif layout == 2:
            x = x.mT.contiguous().mT
        elif layout == 3:  # a view into more memory, not aligned
            x = torch.nn.functional.pad(x, (1, 2))[..., 1:-2]
        maps.append(x)
    maps[2] = maps[2].nan_to_num(1, 2, -2)  # sums of infinities would not compare
    return maps


def run_soft_nms(rng: random.Random) -> None:
    """Soft-NMS of random boxes; NaN and infinities do no harm, and others give the twin's scores.

    Scores that differ by a rounding may change places, so that only the sorted ones are compared.
    """
    import torch

    from cpools_ext import soft_nms_reference
    from cpools_ext.soft_nms import METHODS, soft_nms

    count = rng.choice((0, 1, 2, rng.randrange(100)))
    detections = torch.rand(count, 7) * rng.choice((1, 100))
    odd = rng.choice((float("nan"), float("inf"), -1.0, 0.0))
    detections[torch.rand(count, 7) < 0.01] = odd
    labels = torch.randint(-2, rng.randrange(1, 10), (count,))
    method, weight_exp = rng.choice(list(METHODS)), rng.choice((None, 1.0, 8.0))
    rows, found, kept = soft_nms(detections, labels, method=method, weight_exp=weight_exp)
    assert rows.shape == detections.shape and torch.equal(found, labels.sort().values)
    if detections.isfinite().all():
        settings = (METHODS[method], 0.3, 0.5, 0.001, weight_exp, True)
        expected = soft_nms_reference.soft_nms(detections.numpy(), labels.numpy(), *settings)
        expected_rows, _, expected_kept = map(torch.from_numpy, expected)
        for label in labels.unique():
            own, same_own = kept & (found == label), expected_kept & (found == label)
            assert own.sum() == same_own.sum(), (method, weight_exp)
            scores, wanted = rows[own, 4].sort().values, expected_rows[same_own, 4].sort().values
            torch.testing.assert_close(scores, wanted, rtol=1e-3, atol=1e-5)


def same(a, b) -> bool:
    """True if two tensors are equal, NaN where NaN."""
    import torch

    return bool(torch.all((a == b) | (a.isnan() & b.isnan())))


if __name__ == "__main__":
    if "CPOOLS_FUZZ" in os.environ:
        sys.exit(fuzz(os.environ["CPOOLS_FUZZ"], float(sys.argv[1])))
    sys.exit(main())
