"""How far a corner lies from the edge of its cell."""

from torch import Tensor
from torch.nn import functional as F

from ..layers.gather import gather_cells

EPSILON = 1e-4  # of the reference: a batch without objects divides by it


def offset_loss(offset: Tensor, target: Tensor, index: Tensor, mask: Tensor) -> Tensor:
    """Smooth-L1 loss of the offsets at the corners (CornerNet, section 3.2, eq. 3).

    Args:
        offset: [B, 2, H, W], any floating dtype.
        target: [B, M, 2].
        index: int64 [B, M], cells of the corners.
        mask: bool [B, M], False for padding.

    Returns:
        The sum over the batch's objects, divided by their number; a float32 scalar.
    """
    found = gather_cells(offset, index).float()
    cost = F.smooth_l1_loss(found, target.float(), reduction="none")
    mask = mask.bool()
    return cost.masked_fill(~mask[:, :, None], 0).sum() / (mask.sum() + EPSILON)
