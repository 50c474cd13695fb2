"""The objects of a batch in the form in which torchvision's detectors take them."""

from typing import Any

from ..layers.regions import BACKGROUND
from ..structures import Batch


def region_targets(batch: Batch) -> list[dict[str, Any]]:
    """Takes the padding off the objects and pictures of a batch.

    Args:
        batch: B pictures.

    Returns:
        of each picture: ``boxes`` float32 [n, 4]; ``labels`` int64 [n], counted from 1 as 0 is the
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
