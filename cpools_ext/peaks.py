"""The local maxima of heatmaps, and the highest of them; an operator each."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.library import Library, register_fake
from torch.nn import functional as F

from cpools_ext import native

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

_library = Library("cpools_ext", "FRAGMENT")
_library.define("peaks(Tensor[] heatmaps, int kernel) -> Tensor")
_library.define("top_peaks(Tensor[] heatmaps, int k, int kernel) -> (Tensor, Tensor, Tensor)")


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
    _check(heatmaps, kernel)
    heatmaps = [heatmap.detach() for heatmap in heatmaps]
    if torch.compiler.is_exporting():
        return _by_pooling(heatmaps, kernel)
    return torch.ops.cpools_ext.peaks(heatmaps, kernel)


def top_peaks(heatmaps: Sequence[Tensor], k: int, kernel: int) -> tuple[Tensor, Tensor, Tensor]:
    """Finds the k highest :func:`peaks` of each heatmap of each image, over all classes and cells.

    Args:
        heatmaps, kernel: as for :func:`peaks`.
        k: number of peaks, which may be more than there are.

    Returns:
        Scores float32 [n, B, k], highest first, and int64 [n, B, k] classes and cells, each
        ``y * W + x``. Where an image has fewer peaks, the score is -inf, the others are 0.

    Raises:
        ValueError: as for :func:`peaks`.
    """
    _check(heatmaps, kernel)
    heatmaps = [heatmap.detach() for heatmap in heatmaps]
    if torch.compiler.is_exporting():
        return _top_by_pooling(heatmaps, k, kernel)
    return torch.ops.cpools_ext.top_peaks(heatmaps, k, kernel)


def highest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest of [..., n] and their indices; filled up with -inf at 0 if n < k."""
    if torch.compiler.is_exporting():  # n may be any number
        values = F.pad(values, (0, k), value=-torch.inf)
    scores, index = values.topk(min(k, values.shape[-1]))
    missing = k - scores.shape[-1]
    if missing:
        scores, index = F.pad(scores, (0, missing), value=-torch.inf), F.pad(index, (0, missing))
    return scores, index.masked_fill_(scores == -torch.inf, 0)


def _check(heatmaps: Sequence[Tensor], kernel: int) -> None:
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


def _by_pooling(heatmaps: list[Tensor], kernel: int) -> Tensor:
    joined = heatmaps[0] if len(heatmaps) == 1 else torch.cat(heatmaps)  # [n * B, C, H, W]
    joined = joined.float().contiguous()
    highest = F.max_pool2d(joined, kernel, stride=1, padding=kernel // 2)
    kept = torch.where(joined == highest, joined, -torch.inf)
    return kept.flatten(1).unflatten(0, (len(heatmaps), -1))


def _top_by_pooling(heatmaps: list[Tensor], k: int, kernel: int) -> tuple[Tensor, Tensor, Tensor]:
    scores, index = highest(_by_pooling(heatmaps, kernel), k)
    area = heatmaps[0].shape[2] * heatmaps[0].shape[3]
    return scores, index // area, index % area


def _fake(heatmaps: list[Tensor], kernel: int) -> Tensor:
    batch, classes, height, width = heatmaps[0].shape
    sizes = (len(heatmaps), batch, classes * height * width)
    return torch.empty(sizes, dtype=torch.float32, device=heatmaps[0].device)


def _top_fake(heatmaps: list[Tensor], k: int, kernel: int) -> tuple[Tensor, Tensor, Tensor]:
    sizes, device = (len(heatmaps), heatmaps[0].shape[0], k), heatmaps[0].device
    labels, cells = (torch.empty(sizes, dtype=torch.int64, device=device) for _ in range(2))
    return torch.empty(sizes, dtype=torch.float32, device=device), labels, cells


_library.impl("peaks", _by_pooling, "CompositeExplicitAutograd")
register_fake("cpools_ext::peaks", _fake, lib=_library)
_library.impl("top_peaks", _top_by_pooling, "CompositeExplicitAutograd")
register_fake("cpools_ext::top_peaks", _top_fake, lib=_library)
native.load()
