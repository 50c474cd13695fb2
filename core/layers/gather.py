"""Reading a few cells of a map."""

import torch
from torch import Tensor

from cpools_ext.corners import gather_cells as gather_cells


def gather_windows(maps: Tensor, index: Tensor, side: int) -> Tensor:
    """Reads the windows about some cells; what lies outside the map is 0.

    Args:
        maps: [B, D, H, W].
        index: int64 [B, M], number ``y * W + x`` of a window's middle.
        side: side of the windows, odd.

    Returns:
        [B * M, D, side, side].
    """
    height, width = maps.shape[2:]
    rows = torch.arange(maps.shape[0], device=maps.device)[:, None, None, None]
    reach = torch.arange(-(side // 2), side // 2 + 1, device=maps.device)
    y = (index // width)[..., None, None] + reach[:, None]  # [B, M, side, 1]
    x = (index % width)[..., None, None] + reach  # [B, M, 1, side]
    # Flattened, because compilers lose the strides of what they keep for the backward pass.
    rows, y, x = (part.flatten() for part in torch.broadcast_tensors(rows, y, x))
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    vectors = maps.permute(0, 2, 3, 1)[rows, y.clamp(0, height - 1), x.clamp(0, width - 1)]
    vectors = torch.where(inside[:, None], vectors, 0)  # [B * M * side * side, D]
    return vectors.unflatten(0, (-1, side, side)).permute(0, 3, 1, 2)
