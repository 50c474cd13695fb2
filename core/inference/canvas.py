"""Test images as the network takes them: resized, padded, normalised."""

import cv2
import numpy as np
import torch
from torch import Tensor

from ..data.color import NORMALIZE, apply_color


def resize_by(image: np.ndarray, scale: float) -> np.ndarray:
    """Resizes an image uint8 [h, w, 3] bilinearly to ``int(h * scale)`` x ``int(w * scale)``."""
    height, width = (max(1, int(side * scale)) for side in image.shape[:2])
    if (height, width) == image.shape[:2]:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def center_in(image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """Puts an image into the middle of a black canvas, with their pixels ``side // 2`` aligned.

    Args:
        image: uint8 [h, w, 3].
        size: (height, width) of the canvas, no smaller than the image.

    Returns:
        The canvas, uint8 [*size, 3], and (y, x) of the image in it.
    """
    height, width = image.shape[:2]
    canvas = np.zeros((*size, 3), np.uint8)
    top, left = size[0] // 2 - height // 2, size[1] // 2 - width // 2
    canvas[top : top + height, left : left + width] = image
    return canvas, (top, left)


def normalize(canvas: np.ndarray, mirrored: bool) -> Tensor:
    """Normalises uint8 [H, W, 3]: float32 [1, 3, H, W], or [2, 3, H, W] with its mirror image."""
    image = torch.from_numpy(canvas).permute(2, 0, 1)[None].contiguous()
    images = apply_color(image, torch.from_numpy(NORMALIZE)[None])
    return torch.cat([images, images.flip(3)]) if mirrored else images
