"""Drawings: boxes with names and scores, contact sheets, and the rounds of CornerNet-Saccade."""

import colorsys
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from ..inference.saccade import SaccadeRound

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_GOLDEN_RATIO = 0.618033988749895  # multiples of it, modulo 1, stay distinct however many there are
_MIN_SIDE = 480  # smaller images are enlarged, so that names can be read
_VERY_WIDE = 2  # width by height of an image
_LONGEST_JPEG = 65_500  # pixels, of either side
_CAPTION = (255, 255, 255)
_CAPTION_BACKGROUND = (48, 48, 48)
_SHEET_GAP, _SHEET_CAPTION, _SHEET_FONT = 6, 24, 0.45  # of contact sheets; pixels, pixels, scale
_HEAT_WEIGHT = 0.6  # of attention drawn over an image


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
    """Draws boxes, names and scores on a copy of an image.

    Args:
        image: uint8 [h, w, 3], BGR; it is not changed.
        boxes: [n, 4], (x0, y0, x1, y1) in pixels.
        labels: [n], numbers into ``class_names``.
        scores: [n], or None for ground truth.
        class_names: names of the classes; OpenCV before 5 writes ``?`` for letters beyond ASCII.

    Returns:
        uint8 [k h, k w, 3]; the zoom k is 1, or more for an image too small to write on.
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


def draw_saccades(image: np.ndarray, trace: Sequence[SaccadeRound]) -> np.ndarray:
    """Draws the crops of CornerNet-Saccade, and beside them the attention of the first round.

    Args:
        image: uint8 [h, w, 3], BGR.
        trace: the rounds of :func:`core.inference.saccade.detect_saccades` on it, at least one.

    Returns:
        uint8 [height, width, 3]: a panel of crops, each with its number and scale, and one for each
        attention map of the first round's largest view, dark to bright.
    """
    boxes = [np.zeros((0, 4))]
    names: list[str] = []
    for round_ in trace[1:]:
        crops = round_.crops
        boxes.append(np.concatenate((crops.start[:, ::-1], crops.stop[:, ::-1]), 1))
        names += [f"{len(names) + n} x{scale:.2f}" for n, scale in enumerate(crops.scales, 1)]
    numbers = np.arange(len(names))
    drawn = draw_detections(image, np.concatenate(boxes), numbers, None, names)
    return side_by_side({f"{len(names)} crops": drawn, **_attention_panels(image, trace[0])})


def side_by_side(drawings: Mapping[str, np.ndarray]) -> np.ndarray:
    """Puts drawings of one image beside each other, or below if it is very wide, under captions.

    Args:
        drawings: one or more drawings uint8 [h, w, 3], all of one shape, by caption.

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


def contact_sheet(drawings: Sequence[tuple[str, np.ndarray]], columns: int) -> np.ndarray:
    """Puts drawings of different shapes into a grid, row by row, each under its caption.

    Args:
        drawings: captions, of which a long one loses its beginning, and drawings uint8 [h, w, 3],
            at least one.
        columns: drawings in a row.

    Returns:
        uint8 [height, width, 3]; each cell has room for the largest of the drawings.
    """
    height, width = np.max([drawing.shape[:2] for _, drawing in drawings], axis=0) + _SHEET_GAP
    rows = -(-len(drawings) // columns)
    shape = rows * (height + _SHEET_CAPTION), min(columns, len(drawings)) * width, 3
    sheet = np.full(shape, _CAPTION_BACKGROUND, np.uint8)
    for number, (caption, drawing) in enumerate(drawings):
        row, column = divmod(number, columns)
        top, left = row * (height + _SHEET_CAPTION), column * width
        while cv2.getTextSize(caption, _FONT, _SHEET_FONT, 1)[0][0] > width - 2 * _SHEET_GAP:
            caption = "..." + caption[4:] if len(caption) > 4 else ""
        origin = (left + _SHEET_GAP, top + _SHEET_CAPTION - 7)
        cv2.putText(sheet, caption, origin, _FONT, _SHEET_FONT, _CAPTION, 1, cv2.LINE_AA)
        top += _SHEET_CAPTION
        sheet[top : top + drawing.shape[0], left : left + drawing.shape[1]] = drawing
    return sheet


def jpeg(drawing: np.ndarray) -> bytes:
    """Encodes a drawing uint8 [h, w, 3] as JPEG, scaled down if a side is too long for it."""
    shrink = _LONGEST_JPEG / max(drawing.shape)
    if shrink < 1:
        size = [max(1, int(side * shrink)) for side in drawing.shape[1::-1]]
        drawing = cv2.resize(drawing, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", drawing)[1].tobytes()


def _attention_panels(image: np.ndarray, round_: SaccadeRound) -> dict[str, np.ndarray]:
    """Draws the attention maps of a round's largest view over the image, by caption."""
    panels = {}
    largest = int(round_.crops.scales.argmax())
    top, left = round_.crops.offsets[largest]
    for attention, stride, (low, high) in zip(
        round_.attention, round_.strides, round_.ranges, strict=False
    ):
        zoom = round_.crops.scales[largest] / stride  # cells a pixel of the image
        # Cell of the image's pixel (x, y), both counted by their centres.
        cells = np.array([[zoom, 0, -zoom * left], [0, zoom, -zoom * top]])
        cells[:, 2] += 0.5 * zoom - 0.5
        heat = cv2.warpAffine(
            (255 * attention[largest, 0].cpu().numpy()).astype(np.uint8),
            cells,
            (image.shape[1], image.shape[0]),
            flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
        )
        bright = cv2.applyColorMap(heat, cv2.COLORMAP_INFERNO)
        mixed = cv2.addWeighted(bright, _HEAT_WEIGHT, image, 1 - _HEAT_WEIGHT, 0)
        nothing = np.zeros((0, 4)), np.zeros(0, np.int64)
        panels[f"attention, {low} to {high}"] = draw_detections(mixed, *nothing, None, ())
    return panels


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
