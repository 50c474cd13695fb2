"""Plots of a report, as SVG."""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from .analysis import BINS, RECALLS, ClassCurves
from .plotting import COLORS, INK, drawing_style, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RIGHT, WRONG = COLORS[2], COLORS[1]
Size: TypeAlias = tuple[float, float]  # inches, width and height
LARGE, SMALL = (5.4, 3.2), (3.7, 2.5)


def precision_plot(curves: ClassCurves, size: Size = LARGE) -> str:
    """Draws the precision at each recall, a curve for each IoU."""
    return _plot(_draw_precision, curves, size)


def score_plot(curves: ClassCurves, size: Size = LARGE) -> str:
    """Draws how many detections of each score are right and wrong, and the best threshold."""
    return _plot(_draw_scores, curves, size)


def _plot(draw: "Callable[[Axes, ClassCurves], None]", curves: ClassCurves, size: Size) -> str:
    with drawing_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot(), curves)
        return svg(figure)


def _draw_precision(axes: "Axes", curves: ClassCurves) -> None:
    for number, (iou, precision) in enumerate(curves.precision.items()):
        label = f"IoU {iou:g}, AP {precision.mean():.3f}"
        axes.plot(RECALLS, precision, color=COLORS[number], linewidth=1.8, label=label)
    axes.set(xlim=(0, 1.01), ylim=(0, 1.03), xlabel="recall", ylabel="precision")
    axes.legend(loc="lower left", frameon=True, framealpha=0.9, edgecolor="none")


def _draw_scores(axes: "Axes", curves: ClassCurves) -> None:
    """Draws the histogram; its axis is logarithmic, as most detections have a low score."""
    from matplotlib.colors import to_rgba
    from matplotlib.ticker import NullLocator

    edges = np.linspace(0, 1, BINS + 1)
    for counts, color, label in (
        (curves.wrong, WRONG, "wrong"),
        (curves.right, RIGHT, "right"),
    ):
        label = f"{label} ({int(counts.sum()):,})"
        steps = axes.stairs(np.maximum(counts, 0.5), edges, baseline=0.5, fill=True, label=label)
        steps.set(facecolor=to_rgba(color, 0.25), edgecolor=color, linewidth=1.4)
    if curves.best is not None:
        label = f"best F1 {curves.best.f1:.3f} from {curves.best.threshold:.2f}"
        axes.axvline(curves.best.threshold, color=INK, linestyle="--", linewidth=1.2, label=label)
    most = max(10, int(max(curves.right.max(), curves.wrong.max())))
    axes.set_yscale("log", nonpositive="clip")
    axes.set(xlim=(0, 1), ylim=(0.5, 2 * most), xlabel="score", ylabel="detections")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.legend(loc="upper right", frameon=True, framealpha=0.9, edgecolor="none")
