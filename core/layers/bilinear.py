"""Bilinear resizing with half-pixel centres: which pixels make a new one, and in which shares."""

import numpy as np


def linear_taps(
    positions: np.ndarray, source: np.ndarray | int, target: np.ndarray | int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where a line of ``target`` pixels reads the line of ``source`` pixels that it is made from.

    New pixel = ``(1 - share) line[first] + share line[second]``; nothing smooths before a line gets
    shorter. This is ``cv2.INTER_LINEAR``, and ``F.interpolate(mode="bilinear")``.

    Args:
        positions: int, numbers of new pixels; those outside 0..target-1 repeat the ends.
        source, target: lengths of the lines, at least 1, of a shape that fits ``positions``.

    Returns:
        first, second: int64, pixels of the source; share: float32; all of one shape.
    """
    place = (positions + 0.5) * (source / target) - 0.5
    place = np.clip(place, 0, source - 1)
    first = place.astype(np.int64)
    second = np.minimum(first + 1, source - 1)
    return first, second, (place - first).astype(np.float32)
