"""Colour and normalisation on the device: one matrix a picture (:mod:`core.data.color`)."""

import torch
from torch import Tensor


def apply_color(images: Tensor, color: Tensor) -> Tensor:
    """Applies to every picture its own affine map of the pixel.

    Three multiply-adds, rather than a matrix product, which a GPU may round to TF32 or bfloat16.

    Args:
        images: uint8 [B, 3, h, w].
        color: float32 [B, 3, 4]: new pixel = ``color[:, :3] @ pixel + color[:, 3]``.

    Returns:
        float32 [B, 3, h, w].
    """
    blue, green, red, bias = color[..., None, None].unbind(2)  # each [B, 3, 1, 1]
    result = torch.addcmul(bias, blue, images[:, 0:1])
    result.addcmul_(green, images[:, 1:2])
    return result.addcmul_(red, images[:, 2:3])
