"""The local maxima of heatmaps, in one operator."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.library import Library, register_fake
from torch.nn import functional as F

from cpools_ext import native

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

_library = Library("cpools_ext", "FRAGMENT")
_library.define("peaks(Tensor[] heatmaps, int kernel) -> Tensor")


def peaks(heatmaps: Sequence[Tensor], kernel: int) -> Tensor:
    """Keeps the cells of heatmaps that no cell of the window around them exceeds.

    Equal neighbours are all kept. A cell whose window holds a NaN is not. Values are compared as
    float32. There are native kernels for CUDA; elsewhere it is a max-pool and a comparison.

    Args:
        heatmaps: n tensors, at least one, [B, C, H, W] of one shape, dtype and device, of any
            strides; float32, float64, bfloat16 or float16.
        kernel: side of the window, odd.

    Returns:
        float32 [n, B, C * H * W], the value at cells that are kept and -inf at the others.

    Raises:
        ValueError: an even kernel, another rank or dtype, heatmaps that disagree.
    """
    shape, dtype, device = heatmaps[0].shape, heatmaps[0].dtype, heatmaps[0].device
    if any((each.shape, each.dtype, each.device) != (shape, dtype, device) for each in heatmaps):
        raise ValueError("heatmaps must agree in shape, dtype and device")
    if len(shape) != 4 or dtype not in DTYPES:
        raise ValueError(
            "peaks are those of [B, C, H, W] of float32, float64, bfloat16 or float16, "
            f"not {dtype} {tuple(shape)}"
        )
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel {kernel} must be odd")
    heatmaps = [heatmap.detach() for heatmap in heatmaps]
    if torch.compiler.is_exporting():
        return _by_pooling(heatmaps, kernel)
    return torch.ops.cpools_ext.peaks(heatmaps, kernel)


def _by_pooling(heatmaps: list[Tensor], kernel: int) -> Tensor:
    joined = heatmaps[0] if len(heatmaps) == 1 else torch.cat(heatmaps)  # [n * B, C, H, W]
    joined = joined.float().contiguous()
    highest = F.max_pool2d(joined, kernel, stride=1, padding=kernel // 2)
    kept = torch.where(joined == highest, joined, -torch.inf)
    return kept.flatten(1).unflatten(0, (len(heatmaps), -1))


def _fake(heatmaps: list[Tensor], kernel: int) -> Tensor:
    batch, classes, height, width = heatmaps[0].shape
    sizes = (len(heatmaps), batch, classes * height * width)
    return torch.empty(sizes, dtype=torch.float32, device=heatmaps[0].device)


_library.impl("peaks", _by_pooling, "CompositeExplicitAutograd")
register_fake("cpools_ext::peaks", _fake, lib=_library)
native.load()
