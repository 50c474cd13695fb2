"""Prediction heads: from features to the maps that the losses and the decoder read."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar, cast

from torch import Tensor, nn
from torch.nn import functional as F

from cpools_ext.windows import gather_windows

from ..structures import (
    CenterMaps,
    CentripetalMaps,
    CornerMaps,
    GuidedMaps,
    Peaks,
    SearchedMaps,
)
from .blocks import ConvRelu


class Read(NamedTuple):
    """Where heads are read.

    Attributes:
        cells: for each heatmap, int64 [B, M], each y * W + x; None: everywhere.
        peaks: the peaks of the heatmaps that the cells are of, if they were searched for.
    """

    cells: tuple[Tensor | None, ...]
    peaks: Peaks | None = None


# Finds where heads are read by the logits of heatmaps [B, C, H, W], all of them in one call.
Search = Callable[..., Read]

# Logit of the probability 0.1: with it, the many empty cells don't dominate the first steps
# (RetinaNet, arXiv:1708.02002, section 4.1).
HEATMAP_BIAS = -2.19


class Head(nn.Sequential):
    """A convolution with ReLU, then a 1x1 convolution.

    Embeddings, offsets and sizes are only read at objects. There a head costs next to nothing,
    while a 3x3 head of 256 channels on a whole map of 128 x 128 costs 19 GFLOP.

    The keys ``0.conv`` and ``1`` are frozen: weights of the reference depend on them.

    Args:
        in_channels: number of channels of the features.
        hidden_channels: number of channels between the two convolutions.
        out_channels: number of maps.
        kernel: side of the first convolution's kernel.
        bias: initial bias of the maps; None: PyTorch's random one.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        kernel: int = 3,
        bias: float | None = None,
    ):
        output = nn.Conv2d(hidden_channels, out_channels, 1)
        super().__init__(ConvRelu(in_channels, hidden_channels, kernel), output)
        if bias is not None:
            assert output.bias is not None
            nn.init.constant_(output.bias, bias)

    def forward(self, features: Tensor, cells: Tensor | None = None) -> Tensor:
        """Computes the whole map, or only the vectors of some of its cells.

        Args:
            features: [B, in_channels, H, W].
            cells: int64 [B, M], number ``y * W + x`` of a cell; None: all.

        Returns:
            [B, out_channels, H, W]; for ``cells`` [B, M, out_channels].
        """
        if cells is None:
            return super().forward(features)
        return self.at_cells(gather_windows(features, cells, self.kernel), cells)

    def at_cells(self, windows: Tensor, cells: Tensor) -> Tensor:
        """Computes the vectors [B, M, out_channels] of cells [B, M] from the windows about them."""
        return self.in_windows(windows).flatten(1).unflatten(0, cells.shape)

    @property
    def kernel(self) -> int:
        """Side of the first convolution's kernel."""
        return cast(ConvRelu, self[0]).conv.kernel_size[0]

    def in_windows(self, windows: Tensor) -> Tensor:
        """Computes the outputs of the cells around which the kernel lies within a window.

        Args:
            windows: [N, in_channels, side, side] of the features.

        Returns:
            [N, out_channels, side - kernel + 1, side - kernel + 1].
        """
        hidden, output = self
        conv = cast(ConvRelu, hidden).conv
        vectors: Tensor = output(F.relu_(F.conv2d(windows, conv.weight, conv.bias)))
        return vectors


def read_heads(features: Tensor, cells: Tensor | None, *heads: nn.Module) -> list[Tensor]:
    """Computes heads of one kernel size, which share the windows about the cells.

    Args:
        features, cells: as for :meth:`Head.forward`.
        heads: modules of the class :class:`Head`.
    """
    if cells is None:
        return [head(features) for head in heads]
    alike = [cast(Head, head) for head in heads]
    (kernel,) = {head.kernel for head in alike}
    windows = gather_windows(features, cells, kernel)
    return [head.at_cells(windows, cells) for head in alike]


def where_to_read(
    heatmaps: tuple[Tensor, ...], cells: tuple[Tensor | None, ...], search: Search | None
) -> Read:
    """Finds the cells to read by their heatmaps; without a search, they are those given."""
    return Read(cells) if search is None else search(*heatmaps)


Maps = TypeVar("Maps", CornerMaps, CentripetalMaps, GuidedMaps, CenterMaps)


def with_peaks(maps: Maps, peaks: Peaks | None) -> Maps | SearchedMaps:
    """Adds the peaks to maps that were read at them."""
    return maps if peaks is None else SearchedMaps(maps, peaks)
