"""A bar chart as PNG, drawn with OpenCV."""

from pathlib import Path

import cv2
import numpy as np

WIDTH, BAR, GAP, LEFT, TOP = 1000, 34, 46, 300, 70
COLORS = [(150, 150, 150), (180, 160, 120), (110, 170, 210), (70, 130, 40)]  # BGR
INK = (40, 40, 40)


def draw_bars(path: Path, title: str, groups: dict[str, dict[str, float]]) -> None:
    """Draws horizontal bars in groups, each with its value.

    Args:
        path: the PNG to write.
        title: one line above the bars.
        groups: by the group's title, values by the bar's name.
    """
    bars = sum(map(len, groups.values()))
    image = np.full((TOP + bars * BAR + len(groups) * GAP, WIDTH, 3), 255, np.uint8)
    scale = (WIDTH - LEFT - 90) / max(max(group.values()) for group in groups.values())
    _write(image, title, (20, 38), 0.8)
    y = TOP
    for name, values in groups.items():
        _write(image, name, (20, y + 24), 0.65)
        y += GAP - 8
        for number, (label, value) in enumerate(values.items()):
            _write(image, label, (40, y + 22), 0.55)
            right = LEFT + max(round(value * scale), 1)
            color = COLORS[number % len(COLORS)]
            cv2.rectangle(image, (LEFT, y + 4), (right, y + BAR - 5), color, cv2.FILLED)
            _write(image, f"{value:.2f}", (right + 8, y + 23), 0.55)
            y += BAR
        y += 8
    cv2.imwrite(str(path), image)


def _write(image: np.ndarray, text: str, place: tuple[int, int], size: float) -> None:
    cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, INK, 1, cv2.LINE_AA)
