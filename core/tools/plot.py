"""Draws the losses and the AP of training runs over each other, as PNG.

    python -m core.tools.plot CornerNet_Squeeze-shapes
    python -m core.tools.plot cache/nnet/CornerNet other/nnet/CornerNet --out compared.png

RUN is a config's name, the folder of a run, or its log.jsonl. What a resumed run did again replaces
what it did before.
"""

import argparse
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint.snapshot import run_folder
from ..config.errors import UserError, run
from ..config.loading import load_config
from ..train.log import FILE_NAME, read_log
from .charts import COLORS, INK, Color, Curve, Key, Panel, Style, draw_panels, round_up

logger = logging.getLogger(__name__)

# Running means cover so much of the longest run, and so many lines of a log, or more.
_SMOOTHED_SHARE, _SMOOTHED_LINES = 0.02, 8


@dataclass(frozen=True)
class Run:
    """A run to draw.

    Attributes:
        name: in the legend.
        records: the lines of its log, see :class:`core.train.log.RunLog`.
        color: of its curves.
    """

    name: str
    records: list[dict[str, Any]]
    color: Color

    def curve(self, style: Style, *keys: str) -> list[Curve]:
        """The curve of one value: none or one.

        Args:
            style: of the curve.
            keys: the way to the value in a line of the log; lines without a number there are left
                out.
        """
        points = [(record["iteration"], _inside(record, keys)) for record in self.records]
        known = np.array([point for point in points if point[1] is not None], np.float64)
        return [Curve(known[:, 0], known[:, 1], self.color, style)] if len(known) else []


def main(words: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--out", default="runs.png", metavar="FILE.png", help="(runs.png)")
    options = parser.parse_args(words)
    out = Path(options.out)
    if out.suffix.lower() != ".png" or out.is_dir():
        raise UserError(f"--out {out} must name a .png file")
    draw_runs(out, [find_log(word) for word in options.runs])
    logger.info("drew %s", out)
    return 0


def find_log(word: str) -> Path:
    """The log that a RUN of the command line means.

    Raises:
        UserError: there is none.
    """
    path = Path(word)
    if path.is_dir():
        path = path / FILE_NAME
    elif path.suffix == ".json" or not path.is_file():
        config = load_config(word)
        path = run_folder(config.system.cache_dir, config.name) / FILE_NAME
    if not path.is_file():
        raise UserError(f"there is no log {path}; train it first, or give the folder of the run")
    return path


def draw_runs(path: Path, logs: Sequence[Path]) -> None:
    """Draws runs over each other.

    Args:
        path: the PNG.
        logs: their log.jsonl; at least one.

    Raises:
        UserError: a log holds no step.
    """
    runs = []
    for number, (name, log) in enumerate(zip(_names(logs), logs, strict=True)):
        records = read_log(log)
        if not any("loss" in record for record in records):
            raise UserError(f"{log} holds no step of a training run")
        runs.append(Run(name, records, COLORS[number % len(COLORS)]))
    end = max(record["iteration"] for run in runs for record in run.records)
    apart = max(end / len(run.curve("pale", "loss")[0].steps) for run in runs)
    window = round_up(max(_SMOOTHED_SHARE * end, _SMOOTHED_LINES * apart))
    panels = [_loss_panel("loss, the sum of its terms", runs, ("loss",), window)]
    terms = [term for run in runs for record in run.records for term in record.get("terms", ())]
    for term in dict.fromkeys(terms):
        panels.append(_loss_panel(f"loss term {term}", runs, ("terms", term), window))
    precision = [curve for run in runs for curve in run.curve("dots", "evaluation", "AP")]
    if precision:
        precision += [curve for run in runs for curve in run.curve("rings", "evaluation", "AP50")]
        high = 1.05 * max(float(curve.values.max()) for curve in precision) or 1.0
        title = "AP (dots) and AP50 (rings) of the validation split, 0 to 1"
        panels.append(Panel(title, precision, (0.0, high)))
    styles = [
        Key("one training step", INK, "pale"),
        Key(f"running mean over {window:,.0f} steps", INK, "line"),
        Key("one validation batch", INK, "rings"),
    ]
    names = [[Key(_summary(run), run.color, "line")] for run in runs]
    draw_panels(path, panels, [*names, styles])


def running_mean(steps: np.ndarray, values: np.ndarray, window: float) -> np.ndarray:
    """At each step the mean of the values not further than half a window from it.

    Before the first half window, where losses fall fast, the window is as wide as it can be with
    the step in its middle; at the end it ends with the last step.

    Args:
        steps: float64 [n], ascending.
        values: float64 [n].
        window: in steps.

    Returns:
        float64 [n].
    """
    reach = np.minimum(window / 2, steps - steps[0])
    first = np.searchsorted(steps, steps - reach, "left")
    last = np.searchsorted(steps, steps + reach, "right")
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[last] - sums[first]) / (last - first)


def _loss_panel(title: str, runs: Sequence[Run], keys: tuple[str, ...], window: float) -> Panel:
    raw = [curve for run in runs for curve in run.curve("pale", *keys)]
    smooth = [
        replace(curve, style="line", values=running_mean(curve.steps, curve.values, window))
        for curve in raw
    ]
    validation = [curve for run in runs for curve in run.curve("rings", "validation", *keys)]
    return Panel(title, [*raw, *smooth, *validation])


def _inside(record: Any, keys: Sequence[str]) -> float | None:
    """The value at the end of ``keys`` in nested dictionaries; None where there is none."""
    for key in keys:
        record = record.get(key) if isinstance(record, dict) else None
    return record


def _names(logs: Sequence[Path]) -> list[str]:
    """The folders of logs, without what they have in common before the first difference."""
    folders = [log.absolute().parent for log in logs]
    common = Path(os.path.commonpath(folders))
    return [
        folder.name if folder == common else str(folder.relative_to(common)) for folder in folders
    ]


def _summary(run: Run) -> str:
    """The legend's words about a run: its name and its best AP."""
    for curve in run.curve("dots", "evaluation", "AP"):
        best = int(curve.values.argmax())
        at = f"{curve.values[best]:.3f} after step {curve.steps[best]:,.0f}"
        return f"{run.name}: best AP {at}"
    return run.name


if __name__ == "__main__":
    run(main)
