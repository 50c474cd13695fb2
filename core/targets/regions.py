"""Targets of Faster R-CNN: the objects of a batch in the form of torchvision's detectors."""

from typing import Any

from ..layers.regions import BACKGROUND
from ..structures import Batch


def region_targets(batch: Batch) -> list[dict[str, Any]]:
    """Removes the padding of the objects and images of a batch.

    Args:
        batch: B images.

    Returns:
        For each image ``boxes`` float32 [n, 4]; ``labels`` int64 [n], counted from 1 as 0 is the
        background; ``size``, its (height, width) in pixels.
    """
    if batch.sizes is None:
        sizes = [list(batch.images.shape[2:])] * len(batch)
    else:
        sizes = batch.sizes.tolist()
    return [
        {
            "boxes": batch.boxes[row, :count],
            "labels": batch.labels[row, :count] + BACKGROUND + 1,
            "size": (height, width),
        }
        for row, (count, (height, width)) in enumerate(
            zip(batch.counts.tolist(), sizes, strict=True)
        )
    ]
