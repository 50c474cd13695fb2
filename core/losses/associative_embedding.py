"""The loss that pulls the embeddings of an object's corners together and separates objects."""

import torch
from torch import Tensor

from cpools_ext.corners import gather_cells

EPSILON = 1e-4  # from the reference: it is the divisor if n = 0, and it changes the values


def associative_embedding_loss(
    tl_embedding: Tensor, br_embedding: Tensor, tl_index: Tensor, br_index: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Associative-embedding loss (CornerNet, section 3.3, eq. 4 and 5), summed over the images.

    With m an object's mean embedding and n the objects of its image, pull is the sum of
    ``((tl - m)^2 + (br - m)^2) / (n + eps)``; push is the sum over all ordered pairs of an image's
    objects, each object with itself included, of
    ``(max(0, 1 - |m_j - m_k|) - 1 / (n + eps)) / (n (n - 1) + eps)``.

    Args:
        tl_embedding, br_embedding: [B, 1, H, W], any floating dtype.
        tl_index, br_index: int64 [B, M], cells of the objects' corners.
        mask: bool [B, M], False for padding.

    Returns:
        Pull and push, float32 scalars, unweighted.
    """
    tl = gather_cells(tl_embedding, tl_index).squeeze(2).float()  # [B, M]
    br = gather_cells(br_embedding, br_index).squeeze(2).float()
    mask = mask.bool()
    count = mask.sum(1).float()  # [B]
    mean = (tl + br) / 2

    spread = ((tl - mean).square() + (br - mean).square()) / (count + EPSILON)[:, None]
    pull = torch.where(mask, spread, 0).sum()

    count = count[:, None, None]
    pairs = mask[:, :, None] & mask[:, None, :]  # [B, M, M]
    nearness = (1 - (mean[:, :, None] - mean[:, None, :]).abs()).relu()
    excess = (nearness - 1 / (count + EPSILON)) / ((count - 1) * count + EPSILON)
    push = torch.where(pairs, excess, 0).sum()
    return pull, push
