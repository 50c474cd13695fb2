"""Curves over the steps of training, in panels beside each other, drawn with OpenCV as PNG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from ..checkpoint.files import write_together

Color = tuple[int, int, int]  # blue, green, red
Style = Literal["pale", "line", "dots", "rings"]

# Distinguishable for the colour-blind, too (Okabe and Ito, Color Universal Design).
COLORS: tuple[Color, ...] = (
    (178, 114, 0),
    (0, 94, 213),
    (115, 158, 0),
    (167, 121, 204),
    (0, 159, 230),
    (233, 180, 86),
)
INK: Color = (50, 50, 50)
_GRID: Color = (228, 228, 228)
_FRAME: Color = (150, 150, 150)

_PANEL = (320, 600)  # height and width in pixels, with title and numbers
_LEFT, _RIGHT, _ABOVE, _BELOW = 66, 22, 40, 46  # of a panel, around its frame
_LINE = 26  # pixels a line of text above the panels
_MARK = 9  # pixels between two marked points
_FONT, _SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.44
_SUBPIXEL = 4  # bits
_OUTLIERS = 0.5  # percent of the pale points on either side that may leave the frame
_LOGARITHMIC = 5.0  # at this ratio of the largest to the smallest value


@dataclass(frozen=True)
class Curve:
    """Values at steps.

    Attributes:
        steps: float64 [n], ascending.
        values: float64 [n], finite.
        color: of the line.
        style: ``pale`` may leave the frame where it is an outlier; ``dots`` and ``rings`` mark
            every point if there is room for it.
    """

    steps: np.ndarray
    values: np.ndarray
    color: Color
    style: Style


@dataclass(frozen=True)
class Panel:
    """Curves on common axes.

    Attributes:
        title: what the values are, and their unit.
        curves: drawn one above the other; at least one, and none is empty.
        limits: of the values; None: as large as they are, and from ``_LOGARITHMIC`` on, where all
            are positive, on a logarithmic axis.
    """

    title: str
    curves: Sequence[Curve]
    limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class Key:
    """A line of the legend: what a colour or a style means."""

    text: str
    color: Color
    style: Style


def draw_panels(path: Path, panels: Sequence[Panel], legend: Sequence[Sequence[Key]]) -> None:
    """Draws panels, two in a row, under their legend.

    Args:
        path: the PNG, replaced if it is there; its folder is made.
        panels: at least one.
        legend: rows of entries.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    height, width = _PANEL
    top = _LINE * len(legend) + 20
    image = np.full((top + rows * height, columns * width, 3), 255, np.uint8)
    for row, keys in enumerate(legend):
        _draw_keys_(image, keys, 24 + _LINE * row)
    end = 1.02 * max(curve.steps[-1] for panel in panels for curve in panel.curves)
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        y, x = top + row * height, column * width
        _draw_panel_(image[y : y + height, x : x + width], panel, float(end))
    content = cv2.imencode(".png", image)[1].tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_together({path: lambda file: file.write(content)})


def _draw_keys_(image: np.ndarray, keys: Sequence[Key], y: int) -> None:
    x = _LEFT
    for key in keys:
        points = np.array([[x, y], [x + 17, y], [x + 34, y]], np.float64)
        _draw_points_(image, points, key.color, key.style)
        x = _write_(image, key.text, x + 42, y + 5) + 30


def _draw_panel_(image: np.ndarray, panel: Panel, end: float) -> None:
    """Draws on ``image``, the panel's part of the page."""
    height, width = image.shape[0] - _ABOVE - _BELOW, image.shape[1] - _LEFT - _RIGHT
    low, high = panel.limits or _limits(panel.curves)
    logarithmic = panel.limits is None and low > 0 and high >= _LOGARITHMIC * low

    def place(steps: np.ndarray, values: np.ndarray) -> np.ndarray:
        share = (values - low) / (high - low)
        if logarithmic:  # an outlier may be 0
            share = np.log(np.maximum(values, low / 10) / low) / np.log(high / low)
        return np.stack([width * steps / end, height * (1 - share)], axis=1)

    _write_(image, panel.title + (", logarithmic" if logarithmic else ""), _LEFT, _ABOVE - 12, 0.5)
    plot = image[_ABOVE : _ABOVE + height + 1, _LEFT : _LEFT + width + 1]
    for value in (log_ticks if logarithmic else ticks)(low, high):
        y = round(place(np.zeros(1), np.array([value]))[0, 1])
        cv2.line(plot, (0, y), (width, y), _GRID)
        text = f"{value:g}"
        _write_(image, text, _LEFT - 8 - _length(text), _ABOVE + y + 4)
    for step in filter(float.is_integer, ticks(0, end, 8)):
        x = round(width * step / end)
        cv2.line(plot, (x, 0), (x, height), _GRID)
        text = f"{step:,.0f}"
        _write_(image, text, _LEFT + x - _length(text) // 2, _ABOVE + height + 18)
    _write_(image, "step", _LEFT + width - _length("step"), _ABOVE + height + 36)
    for curve in panel.curves:
        _draw_points_(plot, place(curve.steps, curve.values), curve.color, curve.style)
    cv2.rectangle(plot, (0, 0), (width, height), _FRAME)


def _draw_points_(image: np.ndarray, points: np.ndarray, color: Color, style: Style) -> None:
    """Draws a curve through points, float64 [n, 2] in pixels (x, y), n at least 1."""
    fixed = np.round(points * 2**_SUBPIXEL).clip(-(2**28), 2**28).astype(np.int32)
    if style == "pale":
        blue, green, red = (255 - (255 - part) * 2 // 5 for part in color)
        color = (blue, green, red)
    thickness = 1 if style in ("pale", "rings") else 2
    cv2.polylines(image, [fixed], False, color, thickness, cv2.LINE_AA, _SUBPIXEL)
    length = points[-1, 0] - points[0, 0]
    room = length >= _MARK * (len(points) - 1)
    if len(points) == 1 or (style in ("dots", "rings") and room):
        inside = (255, 255, 255) if style == "rings" else color
        for center in fixed.tolist():
            radius = 3 << _SUBPIXEL
            cv2.circle(image, center, radius, inside, cv2.FILLED, cv2.LINE_AA, _SUBPIXEL)
            cv2.circle(image, center, radius, color, 1, cv2.LINE_AA, _SUBPIXEL)


def _limits(curves: Sequence[Curve]) -> tuple[float, float]:
    """The least and the largest value, without outliers of pale curves, and some room."""
    ends: list[float] = []
    for curve in curves:
        share = _OUTLIERS if curve.style == "pale" else 0.0
        ends += np.percentile(curve.values, (share, 100 - share)).tolist()
    low, high = min(ends), max(ends)
    if low > 0 and high >= _LOGARITHMIC * low:
        return low / 1.1, high * 1.1
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def round_up(value: float) -> float:
    """The least of … 0.5, 1, 2, 5, 10, 20 … that is not below ``value``, which is positive."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * digit for digit in (1, 2, 5, 10) if power * digit >= value)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from ``low`` to ``high``, at most ``most``, at equal distances."""
    distance = round_up((high - low) / most)
    first, last = math.ceil(low / distance), math.floor(high / distance)
    return [round(number * distance, 12) for number in range(first, last + 1)]


def log_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers from ``low`` to ``high``, both positive, for a logarithmic axis."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits, every in (((1, 2, 3, 5, 7), 1), ((1, 2, 5), 1), ((1,), 1), ((1,), 2), ((1,), 5)):
        values = [digit * 10.0**power for power in powers[::every] for digit in digits]
        inside = [value for value in values if low <= value <= high]
        if len(inside) <= most:
            break
    return inside


def _write_(image: np.ndarray, text: str, x: int, y: int, size: float = _SIZE) -> int:
    """Writes a line whose letters stand on ``y``; returns where it ends."""
    cv2.putText(image, text, (x, y), _FONT, size, INK, 1, cv2.LINE_AA)
    return x + _length(text, size)


def _length(text: str, size: float = _SIZE) -> int:
    return int(cv2.getTextSize(text, _FONT, size, 1)[0][0])
