"""Draws the losses and the AP of training runs over each other, as PNG.

    cornerkit plot CornerNet_Squeeze-shapes
    cornerkit plot cache/nnet/CornerNet other/nnet/CornerNet --out compared.png

RUN is a config's name, the folder of a run, or its log.jsonl. Steps that a resumed run repeated
replace those of the run before. Needs matplotlib.
"""

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checkpoint.run_directory import RunDirectory
from ..cli import plain_parser
from ..config.errors import UserError
from ..config.loading import load_config
from ..evaluation.plotting import COLORS, INK, drawing_style, write_figure
from ..training.log import FILE_NAME, read_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

# A running mean covers this part of the longest run, or this many lines of a log if that is more.
_WINDOW_PART, _WINDOW_LINES = 0.02, 8
_OUTLIERS = 0.5  # percent of the single steps at either end that may lie outside the axis
_LOGARITHMIC = 5.0  # ratio of the largest to the smallest value from which an axis is logarithmic
_PANEL_SIZE = (6.0, 3.1)  # inches, width and height
_LEGEND_LINE = 0.24  # inches
_MARKS = 60  # most points of a curve that are marked one by one
_PALE = 0.6  # how much white is in the colour of single steps

_STYLES: dict[str, dict[str, Any]] = {
    "step": {"linewidth": 1.0},
    "mean": {"linewidth": 2.2},
    "dots": {"linewidth": 2.2, "marker": "o", "markersize": 5.5},
    "rings": {"linewidth": 1.1, "marker": "o", "markersize": 5.5, "markerfacecolor": "white"},
}


@dataclass(frozen=True)
class Run:
    """A run to draw.

    Attributes:
        name: label in the legend.
        records: lines of its log, as :class:`core.training.log.RunLog` writes them.
        color: colour of its curves.
    """

    name: str
    records: list[dict[str, Any]]
    color: str

    def curve(self, *keys: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of one entry of the log: float64 [n] each, n may be 0.

        Args:
            keys: path to the value in a line of the log; lines that have no number there are
                left out.
        """
        points = [(record["iteration"], _inside(record, keys)) for record in self.records]
        known = np.array([point for point in points if point[1] is not None], np.float64)
        steps, values = known.reshape(-1, 2).T
        return steps, values


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit code.

    Raises:
        UserError: an argument is wrong, a log is missing or empty, or matplotlib is not installed.
    """
    parser = plain_parser("plot", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="config, folder of a run, or log")
    parser.add_argument("--out", default="runs.png", metavar="FILE.png", help="(%(default)s)")
    options = parser.parse_args(argv)
    out = Path(options.out)
    if out.suffix.lower() != ".png" or out.is_dir():
        raise UserError(f"--out {out} must name a .png file")
    draw_runs(out, [find_log(name) for name in options.runs])
    logger.info("drew %s", out)
    return 0


def find_log(name: str) -> Path:
    """Finds the log that a RUN of the command line names.

    Raises:
        UserError: there is none.
    """
    path = Path(name)
    if path.is_dir():
        path = path / FILE_NAME
    elif path.suffix == ".json" or not path.is_file():
        config = load_config(name)
        path = RunDirectory(config.system.cache_dir, config.name).log
    if not path.is_file():
        raise UserError(f"there is no log {path}; train it first, or give the folder of the run")
    return path


def draw_runs(path: Path, logs: Sequence[Path]) -> None:
    """Draws runs over each other: loss, terms of the loss, and AP if it was evaluated.

    Args:
        path: PNG to write.
        logs: a log.jsonl of each run; at least one.

    Raises:
        UserError: a log holds no step, or matplotlib is not installed.
    """
    runs = _read_runs(logs)
    terms = [term for run in runs for record in run.records for term in record.get("terms", ())]
    panels: list[tuple[str, tuple[str, ...]]] = [("loss, the sum of its terms", ("loss",))]
    panels += [(f"loss term {term}", ("terms", term)) for term in dict.fromkeys(terms)]
    window = _window(runs)
    evaluated = any(len(run.curve("evaluation", "AP")[0]) for run in runs)
    with drawing_style():
        figure, every = _page(len(panels) + evaluated, len(runs))
        for axes, (title, keys) in zip(every, panels, strict=False):
            _draw_loss(axes, title, runs, keys, window)
        if evaluated:
            _draw_precision(every[-1], runs)
        _draw_legend(figure, runs, window)
        write_figure(figure, path)


def running_mean(steps: np.ndarray, values: np.ndarray, window: float) -> np.ndarray:
    """Mean, at each step, of the values at most half a window away.

    In the first half window, where losses fall fast, the window is as wide as it can be with the
    step in its middle; at the end it ends with the last step.

    Args:
        steps: float64 [n], ascending.
        values: float64 [n].
        window: width in steps.

    Returns:
        float64 [n].
    """
    reach = np.minimum(window / 2, steps - steps[0])
    first = np.searchsorted(steps, steps - reach, "left")
    last = np.searchsorted(steps, steps + reach, "right")
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[last] - sums[first]) / (last - first)


def round_up(value: float) -> float:
    """Least of … 0.5, 1, 2, 5, 10, 20 … that is not below ``value``, which is positive."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * digit for digit in (1, 2, 5, 10) if power * digit >= value)


def run_label(run: Run) -> str:
    """Label of a run in the legend: its name, its best AP, and how many evaluations failed."""
    steps, values = run.curve("evaluation", "AP")
    failed = sum("failed_evaluation" in record for record in run.records)
    label = run.name
    if len(values):
        best = int(values.argmax())
        label += f": best AP {values[best]:.3f} after step {steps[best]:,.0f}"
    return label + f"; failed evaluations: {failed}" * bool(failed)


def _read_runs(logs: Sequence[Path]) -> list[Run]:
    runs = []
    for number, (name, log) in enumerate(zip(_names(logs), logs, strict=True)):
        records = read_log(log)
        if not any("loss" in record for record in records):
            raise UserError(f"{log} holds no step of a training run")
        runs.append(Run(name, records, COLORS[number % len(COLORS)]))
    return runs


def _window(runs: Sequence[Run]) -> float:
    """Width of the running means, in steps."""
    end = max(record["iteration"] for run in runs for record in run.records)
    distance = max(end / len(run.curve("loss")[0]) for run in runs)  # between two lines of a log
    return round_up(max(_WINDOW_PART * end, _WINDOW_LINES * distance))


def _page(panels: int, runs: int) -> tuple["Figure", list["Axes"]]:
    """An empty page with room for a line of legend for each run, and one for the styles."""
    from matplotlib.figure import Figure

    columns = min(2, panels)
    rows = -(-panels // columns)
    width, height = _PANEL_SIZE
    size = (columns * width, rows * height + _LEGEND_LINE * (runs + 2))
    figure = Figure(figsize=size, layout="constrained")
    return figure, [figure.add_subplot(rows, columns, number + 1) for number in range(panels)]


def _draw_loss(
    axes: "Axes", title: str, runs: Sequence[Run], keys: tuple[str, ...], window: float
) -> None:
    """Draws a loss of every run: single steps, their running mean, and validation batches."""
    curves = [(run, *run.curve(*keys)) for run in runs]
    shown: list[float] = []  # the extremes of what must lie inside the axis
    for run, steps, values in curves:
        if len(steps):
            _draw_curve(axes, steps, values, "step", run.color)
            shown += np.percentile(values, (_OUTLIERS, 100 - _OUTLIERS)).tolist()
    for run, steps, values in curves:
        if len(steps):
            mean = running_mean(steps, values, window)
            _draw_curve(axes, steps, mean, "mean", run.color)
            shown += [mean.min(), mean.max()]
    for run in runs:
        steps, values = run.curve("validation", *keys)
        if len(steps):
            _draw_curve(axes, steps, values, "rings", run.color)
            shown += [values.min(), values.max()]
    low, high = min(shown), max(shown)
    if low > 0 and high >= _LOGARITHMIC * low:
        title += ", logarithmic"
        _make_logarithmic(axes, low / 1.1, high * 1.1)
    else:
        room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_ylim(low - room, high + room)
    _finish_axes(axes, title, runs)


def _draw_precision(axes: "Axes", runs: Sequence[Run]) -> None:
    """Draws AP and AP50 of the evaluations of every run."""
    highest = 0.0
    for key, style in (("AP", "dots"), ("AP50", "rings")):
        for run in runs:
            steps, values = run.curve("evaluation", key)
            if len(steps):
                _draw_curve(axes, steps, values, style, run.color)
                highest = max(highest, values.max())
    axes.set_ylim(0, 1.05 * highest or 1.0)
    _finish_axes(axes, "AP (dots) and AP50 (rings) of the validation split, 0 to 1", runs)


def _draw_curve(
    axes: "Axes", steps: np.ndarray, values: np.ndarray, style: str, color: str
) -> None:
    settings = _line(style, color)
    if len(steps) > _MARKS:
        settings.pop("marker", None)
    elif len(steps) == 1:  # a line of one point would not be seen
        settings["marker"] = "o"
    axes.plot(steps, values, **settings)


def _line(style: str, color: str) -> dict[str, Any]:
    """Settings of a line; pale ones are mixed with white: transparent ones darken each other."""
    from matplotlib.colors import to_rgb

    white = _PALE if style == "step" else 0.0
    mixed = tuple(part + white * (1 - part) for part in to_rgb(color))
    return {"color": mixed, **_STYLES[style]}


def _make_logarithmic(axes: "Axes", low: float, high: float) -> None:
    """Makes the axis of the values logarithmic, with numbers a reader can follow."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log", nonpositive="clip")
    axes.set_ylim(low, high)
    digits = (1, 2, 3, 5, 7) if high < 20 * low else (1, 2, 5) if high < 200 * low else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=digits))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def _finish_axes(axes: "Axes", title: str, runs: Sequence[Run]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left")
    axes.set_xlim(0, 1.02 * max(record["iteration"] for run in runs for record in run.records))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("step", loc="right")


def _draw_legend(figure: "Figure", runs: Sequence[Run], window: float) -> None:
    """Draws a line for each run above the panels, and one that explains the styles below."""
    from matplotlib.lines import Line2D

    styles = {
        "step": "one training step",
        "mean": f"running mean over {window:,.0f} steps",
        "rings": "one validation batch",
    }
    names = [Line2D([], [], label=run_label(run), **_line("mean", run.color)) for run in runs]
    keys = [Line2D([], [], label=text, **_line(style, INK)) for style, text in styles.items()]
    figure.legend(handles=names, loc="outside upper left")
    figure.legend(handles=keys, loc="outside lower left", ncols=len(keys))


def _inside(record: Any, keys: Sequence[str]) -> float | None:
    """Value at the end of ``keys`` in nested dictionaries; None where there is none."""
    for key in keys:
        record = record.get(key) if isinstance(record, dict) else None
    return record


def _names(logs: Sequence[Path]) -> list[str]:
    """Folders of the logs, without the part that all have in common."""
    folders = [log.absolute().parent for log in logs]
    common = Path(os.path.commonpath(folders))
    return [
        folder.name if folder == common else str(folder.relative_to(common)) for folder in folders
    ]
