"""Where CornerNet-Saccade looked closer, and the attention that sent it there, as a drawing."""

from typing import Any

import cv2
import numpy as np

from ..inference.predict import Predict
from ..inference.saccade import Gaze, Look, look_closer, merge_looks
from ..structures import Detections
from .draw import draw_detections, side_by_side

_HEAT_SHARE = 0.6


def inspect_saccades(
    image: np.ndarray, predict: Predict, *, gaze: Gaze, **merging: Any
) -> tuple[Detections, dict[str, np.ndarray]]:
    """As :func:`core.inference.saccade.detect_saccades`, and gives the drawing ``saccades``."""
    looks = look_closer(image, predict, gaze)
    return merge_looks(looks, **merging), {"saccades": draw_looks(image, looks, gaze)}


def draw_looks(image: np.ndarray, looks: list[Look], gaze: Gaze) -> np.ndarray:
    """The crops of all rounds after the first pass, and beside them the first pass' attention.

    Args:
        image: uint8 [h, w, 3], BGR.
        looks: what :func:`core.inference.saccade.look_closer` gave for it.
        gaze: how it was looked at.

    Returns:
        uint8 [height, width, 3]: a panel of crops, each with its number and scale, and one for each
        range of sizes with the attention of the largest view of the first pass, dark to bright.
    """
    boxes = [np.zeros((0, 4))]
    names: list[str] = []
    for look in looks[1:]:
        boxes.append(np.concatenate((look.crops.start[:, ::-1], look.crops.stop[:, ::-1]), 1))
        names += [f"{len(names) + n} x{s:.2f}" for n, s in enumerate(look.crops.scales, 1)]
    numbers = np.arange(len(names))
    panels = {
        f"{len(names)} closer looks": draw_detections(
            image, np.concatenate(boxes), numbers, None, names
        )
    }
    first = looks[0]
    largest = int(first.crops.scales.argmax())
    for attention, stride, (low, high) in zip(
        first.attention, gaze.strides, gaze.ranges, strict=False
    ):
        zoom = first.crops.scales[largest] / stride  # cells a pixel of the picture
        corner = first.crops.offsets[largest]
        # Cell of the picture's pixel (x, y), both counted by their centres.
        cells = np.array([[zoom, 0, -zoom * corner[1]], [0, zoom, -zoom * corner[0]]])
        cells[:, 2] += 0.5 * zoom - 0.5
        heat = cv2.warpAffine(
            (255 * attention[largest, 0].cpu().numpy()).astype(np.uint8),
            cells,
            (image.shape[1], image.shape[0]),
            flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
        )
        bright = cv2.applyColorMap(heat, cv2.COLORMAP_INFERNO)
        mixed = cv2.addWeighted(bright, _HEAT_SHARE, image, 1 - _HEAT_SHARE, 0)
        nothing = np.zeros((0, 4)), np.zeros(0, np.int64)
        panels[f"attention, {low} to {high}"] = draw_detections(mixed, *nothing, None, ())
    return side_by_side(panels)
