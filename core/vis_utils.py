"""Drawing as in the reference implementation, for code that was written for it."""

from collections.abc import Mapping

import cv2
import numpy as np

from .evaluation.draw import class_color

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_GAP = 2  # pixels between a name and its box
_INK = (0, 0, 0)


def draw_bboxes(
    image: np.ndarray,
    bboxes: Mapping[str, np.ndarray],
    font_size: float = 0.5,
    thresh: float = 0.5,
    colors: Mapping[str, tuple[int, int, int]] | None = None,
) -> np.ndarray:
    """Draws boxes and the names of their classes on a copy of an image.

    :meth:`core.detections.Detections.draw` writes scores too, and in a size that can be read.

    Args:
        image: uint8 [h, w, 3], BGR.
        bboxes: [n, 5] by the name of a class: x0, y0, x1, y1 in pixels and the score.
        font_size: scale of OpenCV's font.
        thresh: only boxes with a score above it are drawn.
        colors: blue, green and red of each class by its name; None: a colour of its own for each,
            always the same.

    Returns:
        uint8 [h, w, 3].
    """
    canvas = np.ascontiguousarray(image).copy()
    for label, (name, rows) in enumerate(bboxes.items()):
        color = class_color(label) if colors is None else tuple(colors[name])
        width, height = cv2.getTextSize(name, _FONT, font_size, 2)[0]
        for box in rows[rows[:, 4] > thresh]:
            x0, y0, x1, y1 = box[:4].astype(int).tolist()
            cv2.rectangle(canvas, (x0, y0), (x1, y1), color, 2)
            # The name is above the box, or in it where there is no room.
            bottom = y0 - _GAP if y0 >= height + _GAP else y0 + height + _GAP
            cv2.rectangle(canvas, (x0, bottom - height), (x0 + width, bottom), color, cv2.FILLED)
            cv2.putText(canvas, name, (x0, bottom), _FONT, font_size, _INK, 1)
    return canvas
