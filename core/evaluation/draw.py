"""Boxes with names and scores, drawn on pictures."""

import colorsys
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_GOLDEN_RATIO = 0.618033988749895  # multiples of it, modulo 1, stay apart however many there are
_MIN_SIDE = 480  # smaller pictures are enlarged, so that names can be read
_VERY_WIDE = 2  # width by height of a picture
_LONGEST_JPEG = 65_500  # pixels, of either side
_CAPTION = (255, 255, 255)
_CAPTION_BACKGROUND = (48, 48, 48)


def class_color(label: int) -> tuple[int, int, int]:
    """The colour (blue, green, red) of a class, always the same and unlike its neighbours'."""
    hue = (label * _GOLDEN_RATIO + 0.33) % 1
    value = 1.0 if label % 2 == 0 else 0.85
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.95 if label % 3 else 0.75, value)
    return int(255 * blue), int(255 * green), int(255 * red)


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray | None,
    class_names: Sequence[str],
) -> np.ndarray:
    """A copy of a picture with boxes, names and scores on it.

    Args:
        image: uint8 [h, w, 3], BGR; it is not changed.
        boxes: [n, 4], (x0, y0, x1, y1) in pixels.
        labels: [n], numbers into ``class_names``.
        scores: [n], or None for ground truth.
        class_names: OpenCV before 5 writes ``?`` for letters beyond ASCII.

    Returns:
        uint8 [k h, k w, 3]; k is 1, or above 1 for a picture too small to write on.
    """
    zoom = max(1, -(-_MIN_SIDE // max(image.shape[:2])))
    canvas = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    thickness = max(1, round(max(canvas.shape[:2]) / 320))
    # The best detection is drawn last, on top of the others.
    order = range(len(boxes)) if scores is None else np.argsort(scores, kind="stable")
    corners = np.round(np.asarray(boxes, np.float64).reshape(-1, 4) * zoom).astype(int)
    for row in order:
        x0, y0, x1, y1 = corners[row].tolist()
        cv2.rectangle(canvas, (x0, y0), (x1, y1), class_color(int(labels[row])), thickness)
    for row in order:
        text = class_names[int(labels[row])]
        if scores is not None:
            text += f" {scores[row]:.2f}"
        _write_label_(canvas, text, corners[row].tolist(), class_color(int(labels[row])))
    return canvas


def side_by_side(drawings: Mapping[str, np.ndarray]) -> np.ndarray:
    """Drawings of one picture, beside each other or, if it is very wide, below, under captions.

    Args:
        drawings: by caption, uint8 [h, w, 3], all of one shape; at least one.

    Returns:
        uint8 [h + caption, n w + (n - 1) gap, 3]; below each other,
        [n (h + caption) + (n - 1) gap, w, 3].
    """
    assert len({drawing.shape for drawing in drawings.values()}) == 1
    height, width = next(iter(drawings.values())).shape[:2]
    axis = 0 if width > _VERY_WIDE * height else 1
    parts: list[np.ndarray] = []
    for caption, drawing in drawings.items():
        scale = _font_scale(drawing)
        strip = np.full((round(40 * scale), drawing.shape[1], 3), _CAPTION_BACKGROUND, np.uint8)
        origin = (round(10 * scale), round(28 * scale))
        cv2.putText(strip, caption, origin, _FONT, scale, _CAPTION, 1, cv2.LINE_AA)
        part = np.concatenate([strip, drawing])
        breadth = list(part.shape)
        breadth[axis] = max(2, round(6 * scale))
        gap = np.full(breadth, _CAPTION_BACKGROUND, np.uint8)
        parts += [gap, part] if parts else [part]
    return np.concatenate(parts, axis)


def jpeg(drawing: np.ndarray) -> bytes:
    """A drawing uint8 [h, w, 3] as a JPEG file's content, smaller where it is too long for one."""
    shrink = _LONGEST_JPEG / max(drawing.shape)
    if shrink < 1:
        size = [max(1, int(side * shrink)) for side in drawing.shape[1::-1]]
        drawing = cv2.resize(drawing, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", drawing)[1].tobytes()


def _font_scale(canvas: np.ndarray) -> float:
    return max(0.4, max(canvas.shape[:2]) / 1500)


def _write_label_(
    canvas: np.ndarray, text: str, box: Sequence[int], color: tuple[int, int, int]
) -> None:
    """Writes ``text`` on a plate of ``color``: above the box, or inside where there is no room."""
    scale = _font_scale(canvas)
    (width, height), baseline = cv2.getTextSize(text, _FONT, scale, 1)
    plate = height + baseline + 2
    x = max(0, min(box[0], canvas.shape[1] - width - 3))
    top = box[1] - plate if box[1] >= plate else box[1]
    top = max(0, min(top, canvas.shape[0] - plate))
    cv2.rectangle(canvas, (x, top), (x + width + 3, top + plate), color, cv2.FILLED)
    blue, green, red = color
    dark = 0.114 * blue + 0.587 * green + 0.299 * red < 128
    ink = (255, 255, 255) if dark else (0, 0, 0)
    cv2.putText(canvas, text, (x + 2, top + height + 1), _FONT, scale, ink, 1, cv2.LINE_AA)
