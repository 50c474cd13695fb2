"""Inference with Faster R-CNN: the whole image at one scale (arXiv:1506.01497, section 3.3)."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import transforms
from ..data.samples.whole import fitted_size
from ..layers.regions import BACKGROUND
from ..structures import Detections
from .requests import CanvasRequest, Inference


def detect_regions(
    image: np.ndarray,
    trace: list[Any] | None = None,
    *,
    shorter_side: int,
    longer_side: int,
    least_side: int,
) -> Inference:
    """Finds the objects of one image.

    Args:
        image: uint8 [h, w, 3], BGR.
        trace: not used.
        shorter_side, longer_side, least_side: as for
            :func:`core.data.samples.whole.fitted_size`.

    Yields:
        The image. It is sent its part of the result of :func:`decode_regions`.

    Returns:
        Detections in pixels of ``image``, within ``[0, w] x [0, h]``.
    """
    height, width = image.shape[:2]
    size = fitted_size((height, width), shorter_side, longer_side, least_side)
    resized, _ = transforms.resize(image, np.zeros((0, 4), np.float32), size)
    (rows,) = yield CanvasRequest(resized, mirrored=False)
    found = rows.numpy()
    zoom = np.array([size[1] / width, size[0] / height] * 2, np.float32)
    boxes = np.clip(found[:, :4] / zoom, 0, [width, height] * 2).astype(np.float32)
    return Detections(boxes, found[:, 4], found[:, 5].astype(np.int64))


def decode_regions(outputs: list[dict[str, Tensor]]) -> list[Tensor]:
    """Collects the detections of each image in one tensor.

    Args:
        outputs: for each image ``boxes`` [n, 4], ``scores`` [n], best first, and ``labels`` [n],
            counted from 1.

    Returns:
        For each image float32 [n, 6]: box, score, class counted from 0.
    """
    return [
        torch.cat(
            [
                found["boxes"],
                found["scores"][:, None],
                (found["labels"] - BACKGROUND - 1)[:, None].float(),
            ],
            dim=1,
        )
        for found in outputs
    ]
