"""The machine and its yardsticks; pooling and decoding on a GPU as multiples of them."""

import math
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.decoding import (
    DECODING,
    TOP_K,
    decode_by_pooling,
    noise_maps,
)
from benchmarks.gpu_process import Setting
from benchmarks.gpu_rows import Row, Value, attempt, failure
from benchmarks.operators import both_passes, fastest, pair_multiples, rates
from benchmarks.timing import median_seconds, product_rate, seconds
from core.decode.corners import decode_corners
from core.layers.norm import norm
from cpools_ext import native

ROUNDS = 10
COPIED = 2**30  # bytes
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def describe(setting: Setting) -> Iterator[Row]:
    """Yields rows of the machine and of its yardsticks: products of matrices, and a copy."""
    device = torch.device(setting.device)
    yield attempt("machine", "machine", lambda: _machine(device))
    for name, dtype, precision in (
        ("product, bfloat16", torch.bfloat16, "highest"),
        ("product, float32", torch.float32, "highest"),
        ("product, float32 as TF32", torch.float32, "high"),
    ):
        yield attempt("machine", name, partial(_product, device, dtype, precision, setting.tiny))
    yield attempt("machine", "copy within the device", lambda: _copy(device, setting.tiny))


def _machine(device: torch.device) -> dict[str, Value]:
    """Describes the device, the versions and the build."""
    values: dict[str, Value] = {
        "device": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "CUDA": str(torch.version.cuda),
        "operators": native.describe_build(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        values["device"] = properties.name
        values["GiB"] = properties.total_memory / 2**30
        values["cuDNN"] = str(torch.backends.cudnn.version())
        values["driver"] = _driver()
    return values


def _driver() -> str:
    """Asks the driver's own tool for its version."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "unknown: no nvidia-smi"
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
    return answer.stdout.strip().split("\n")[0] or "unknown"


def _product(
    device: torch.device, dtype: torch.dtype, precision: str, tiny: bool
) -> dict[str, Value]:
    """Measures a product of matrices, whose side the column of its rate says."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        rate = product_rate(device, dtype, 64 if tiny else None)
    finally:
        torch.set_float32_matmul_precision(before)
    return {"TFLOP/s": rate / 1e12}


def _copy(device: torch.device, tiny: bool) -> dict[str, Value]:
    """Measures a copy; a byte is read and written."""
    source = torch.zeros(2**16 if tiny else COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    spent = median_seconds(lambda: target.copy_(source), device, 5, 5)
    return {"GB/s": 2 * source.nbytes / spent / 1e9}


def pool(setting: Setting) -> Iterator[Row]:
    """Yields rows of corner pooling: shares of a copy's rate, and of a corner's sum in clones."""
    device = torch.device(setting.device)
    rounds = 1 if setting.tiny else ROUNDS
    for dtype in (torch.float32, torch.bfloat16):
        for layout, memory_format in LAYOUTS.items():
            shape = (2, 4, 8, 8) if setting.tiny else (16, 128, 128, 128)  # beyond the cache
            x = torch.randn(shape, device=device).to(dtype, memory_format=memory_format)
            kind = f"{str(dtype).removeprefix('torch.')}, {layout}"
            try:
                for direction, row in rates(x, rounds).items():
                    heads = ("copy GB/s", "forward GB/s", "backward GB/s", "forward", "backward")
                    yield Row(
                        "pooling, shares of a copy's rate",
                        f"{direction}, {kind}",
                        dict(zip(heads, row, strict=True)),
                    )
            except Exception as error:
                yield Row("pooling, shares of a copy's rate", kind, problem=failure(error))
            x = x[:4].clone(memory_format=torch.preserve_format)
            yield attempt("pooling of a corner, in clones", kind, partial(_sums, x, rounds))


def _sums(x: Tensor, rounds: int) -> Mapping[str, Value]:
    """Measures a corner's two poolings and an addition, and the same in one operator."""
    values: dict[str, Value] = {}
    for way, (forward, both) in pair_multiples(x, rounds).items():
        name = way.replace("`", "")
        values[f"{name}: forward"], values[f"{name}: with backward"] = forward, both
    return values


def normalize(setting: Setting) -> Iterator[Row]:
    """Yields rows of batch norm in training, by our kernels and layer by layer."""
    device = torch.device(setting.device)
    shapes = [(2, 8, 4, 4)] if setting.tiny else [(16, 256, 128, 128), (16, 384, 32, 32)]
    for shape in shapes:
        for adds in (False, True):
            after = "addition and ReLU" if adds else "ReLU"
            name = f"{' x '.join(map(str, shape))}, {after}"
            measure = partial(_normalize, shape, adds, device, 1 if setting.tiny else ROUNDS)
            yield attempt("batch norm in bfloat16, in clones", name, measure)


def _normalize(
    shape: tuple[int, ...], adds: bool, device: torch.device, rounds: int
) -> dict[str, Value]:
    """Measures a batch norm with what follows it, in clones of the map."""
    layer = nn.BatchNorm2d(shape[1], device=device)
    x, added, grad = (
        torch.randn(shape, device=device)
        .to(torch.bfloat16, memory_format=torch.channels_last)
        .requires_grad_()
        for _ in range(3)
    )

    def ours(x: Tensor) -> Tensor:
        return norm(layer, x, added if adds else None, math.inf)

    def by_layers(x: Tensor) -> Tensor:
        y = layer(x)
        return F.relu_(y + added if adds else y)

    values: dict[str, Value] = {}
    for name, way in {"ours": ours, "layer by layer": by_layers}.items():
        ways = {"clone": x.detach().clone, "forward": lambda way=way: way(x)}
        times = fastest({**ways, "both": both_passes(way, x, grad.detach())}, rounds, device)
        values[f"{name}: forward"] = times["forward"] / times["clone"]
        values[f"{name}: with backward"] = times["both"] / times["clone"]
    return values


def decode(setting: Setting) -> Iterator[Row]:
    """Yields rows of the decoding of an image's corners, in ``torch.topk`` of its heatmap."""
    device = torch.device(setting.device)
    maps = noise_maps(device)
    heatmap = maps.tl_heatmap.flatten(1)
    calls, rounds = (1, 1) if setting.tiny else (10, ROUNDS)
    topk = median_seconds(lambda: torch.topk(heatmap, TOP_K), device, calls, rounds)
    ways: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: decode_corners(maps, **DECODING),
        "with a full max-pool": lambda: decode_by_pooling(maps),
    }

    def measure(way: Callable[[], Tensor]) -> dict[str, Value]:
        spent = median_seconds(way, device, calls, rounds)
        return {"ms": 1e3 * spent, "topk": spent / topk, "ms alone": 1e3 * seconds(way, device)}

    for name, way in ways.items():
        yield attempt("decoding of an image", name, partial(measure, way))
