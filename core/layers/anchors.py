"""Anchors of Faster R-CNN (Ren et al. 2015, arXiv:1506.01497, section 3.1.1)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator


def base_anchors(stride: int, scales: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Makes the anchors of a map's first cell, about its middle.

    Args:
        stride: pixels per cell of the map.
        scales: square roots of the anchors' areas, in strides.
        ratios: ratios of height to width.

    Returns:
        float32 [ratios x scales, 4] in pixels, unrounded; the scales of the first ratio come first.
    """
    roots = np.sqrt(np.array(ratios, float))[:, None]
    sides = stride * np.array(scales, float)
    half = np.stack([(sides / roots).ravel(), (sides * roots).ravel()], 1) / 2  # [n, 2]: w, h
    return torch.from_numpy(np.concatenate([stride / 2 - half, stride / 2 + half], 1)).float()


class AnchorGrid(AnchorGenerator):
    """Anchors of every cell of a map, row by row; a cell has those of :func:`base_anchors`.

    torchvision's generator rounds the sides, centres anchors on the cells' corners and derives the
    stride from the sizes of image and map, which is wrong if the map cuts off much of the image.

    Args:
        stride, scales, ratios: as for :func:`base_anchors`.
    """

    def __init__(self, stride: int, scales: Sequence[float], ratios: Sequence[float]) -> None:
        super().__init__((tuple(scales),), (tuple(ratios),))
        self.stride = stride
        self.cell_anchors = [base_anchors(stride, scales, ratios)]

    def grid_anchors(
        self, grid_sizes: list[list[int]], strides: list[list[Tensor]]
    ) -> list[Tensor]:
        """Makes the anchors float32 [H x W x n, 4] of each map.

        Args:
            grid_sizes: (H, W) of each map.
            strides: torchvision's guess of the strides; not used.
        """
        return super().grid_anchors(grid_sizes, [[self.stride, self.stride] for _ in grid_sizes])
