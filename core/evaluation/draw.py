"""Drawings: boxes with names and scores, contact sheets, and the rounds of CornerNet-Saccade."""

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ..inference.saccade import SaccadeRound
from .labels import place_labels

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_GOLDEN_RATIO = 0.618033988749895  # multiples of it, modulo 1, stay distinct however many there are
_MIN_SIDE = 480  # smaller images are enlarged, so that names can be read
_VERY_WIDE = 2  # width by height of an image
_LONGEST_JPEG = 65_500  # pixels, of either side
_CAPTION = (255, 255, 255)
_CAPTION_BACKGROUND = (48, 48, 48)
_SHEET_GAP, _SHEET_CAPTION, _SHEET_FONT = 6, 24, 0.45  # of contact sheets; pixels, pixels, scale
_DASH = 6  # times the thickness of a line: a dash and the gap after it
_HEAT_WEIGHT = 0.6  # of attention drawn over an image


@dataclass(frozen=True)
class Mark:
    """A box to draw.

    Attributes:
        box: (x0, y0, x1, y1) in pixels of the image.
        text: what is written at the box; nothing if empty.
        color: blue, green, red, 0 to 255.
        dashed: a line with gaps.
    """

    box: Sequence[float] | np.ndarray
    text: str
    color: tuple[int, int, int]
    dashed: bool = False


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
    marks = []
    # The best detection comes last, and lies on top of the others.
    order = range(len(boxes)) if scores is None else np.argsort(scores, kind="stable")
    for row in order:
        label = int(labels[row])
        text = class_names[label]
        if scores is not None:
            text += f" {scores[row]:.2f}"
        marks.append(Mark(boxes[row], text, class_color(label)))
    return draw_marks(image, marks)


def draw_marks(
    image: np.ndarray, marks: Sequence[Mark], text_scale: float | None = None
) -> np.ndarray:
    """Draws boxes with labels on a copy of an image, later ones on top of those before.

    Labels keep clear of each other where they can, later ones with the better place.

    Args:
        image: uint8 [h, w, 3], BGR; it is not changed.
        marks: what to draw.
        text_scale: size of the labels in units of OpenCV's fonts; None: by the size of the image.

    Returns:
        uint8 [k h, k w, 3]; the zoom k is 1, or more for an image too small to write on.
    """
    zoom = max(1, -(-_MIN_SIDE // max(image.shape[:2])))
    canvas = image.copy()
    if zoom > 1:
        canvas = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    thickness = max(1, round(max(canvas.shape[:2]) / 320))
    boxes = np.array([mark.box for mark in marks], np.float64).reshape(-1, 4) * zoom
    corners = np.round(boxes).astype(int)
    for mark, (x0, y0, x1, y1) in zip(marks, corners.tolist(), strict=True):
        if mark.dashed:
            cv2.polylines(canvas, _dashes(x0, y0, x1, y1, thickness), False, mark.color, thickness)
        else:
            cv2.rectangle(canvas, (x0, y0), (x1, y1), mark.color, thickness)
    scale = _font_scale(canvas) if text_scale is None else text_scale
    sizes = np.array([_plate_size(mark.text, scale) for mark in marks]).reshape(-1, 2)
    places = place_labels(corners[::-1], sizes[::-1], canvas.shape[:2])[::-1]
    for mark, (x, y), (width, height) in zip(marks, places.tolist(), sizes.tolist(), strict=True):
        if mark.text:
            _write_label_(canvas, mark, (x, y, x + width, y + height), scale)
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


def _plate_size(text: str, scale: float) -> tuple[int, int]:
    """Width and height of the plate that a text is written on; (0, 0) for no text."""
    if not text:
        return 0, 0
    (width, height), baseline = cv2.getTextSize(text, _FONT, scale, _stroke(scale))
    return width + 4, height + baseline + 2


def _stroke(scale: float) -> int:
    return max(1, round(1.5 * scale))


def _write_label_(
    canvas: np.ndarray, mark: Mark, plate: tuple[int, int, int, int], scale: float
) -> None:
    """Writes the text of a mark on its plate (x0, y0, x1, y1)."""
    x0, y0, x1, y1 = plate
    cv2.rectangle(canvas, (x0, y0), (x1 - 1, y1 - 1), mark.color, cv2.FILLED)
    blue, green, red = mark.color
    dark = 0.114 * blue + 0.587 * green + 0.299 * red < 128
    ink = (255, 255, 255) if dark else (0, 0, 0)
    _, baseline = cv2.getTextSize(mark.text, _FONT, scale, _stroke(scale))
    origin = (x0 + 2, y1 - baseline)
    cv2.putText(canvas, mark.text, origin, _FONT, scale, ink, _stroke(scale), cv2.LINE_AA)


def _dashes(x0: int, y0: int, x1: int, y1: int, thickness: int) -> list[np.ndarray]:
    """Cuts the sides of a box into dashes, int32 [2, 2] each: its ends (x, y)."""
    dashes = []
    for start, end in (
        ((x0, y0), (x1, y0)),
        ((x1, y0), (x1, y1)),
        ((x1, y1), (x0, y1)),
        ((x0, y1), (x0, y0)),
    ):
        a, b = np.array(start, np.float64), np.array(end, np.float64)
        pairs = max(1, round(np.abs(b - a).max() / (_DASH * thickness)))
        steps = np.arange(pairs)[:, None] / pairs
        gap = 0.55 / pairs
        ends = np.stack([a + steps * (b - a), a + (steps + gap) * (b - a)], 1)  # [pairs, 2, 2]
        dashes += list(np.round(ends).astype(np.int32))
    return dashes
