"""Reading a few cells of a map."""

from torch import Tensor


def gather_cells(maps: Tensor, index: Tensor) -> Tensor:
    """Reads the vectors of some cells, without laying the map out anew.

    Args:
        maps: [B, D, H, W].
        index: int64 [B, M], number ``y * W + x`` of a cell.

    Returns:
        [B, M, D].
    """
    channels = index[:, None].expand(-1, maps.shape[1], -1)  # [B, D, M]
    return maps.flatten(2).gather(2, channels).transpose(1, 2)
