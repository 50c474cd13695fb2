"""Results of an evaluation as files and as text, and a progress bar."""

import json
import logging
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from ..checkpoint.files import write_together
from ..data.coco import CocoDetection
from .coco import Metrics

logger = logging.getLogger(__name__)

T = TypeVar("T")


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    """Writes a JSON file, completely or not at all; missing folders are made.

    Args:
        path: the file, replaced if it is there.
        content: plain JSON values, all numbers finite; lone surrogates are written as ``\\udc80``.
        indent: as in :func:`json.dumps`.
    """
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode(errors="backslashreplace") + b"\n"
    write_together({path: lambda file: file.write(data)})


def metric_text(value: float | None) -> str:
    """Writes a metric with three decimals; ``-`` if there is no object to find."""
    return "-" if value is None else f"{value:.3f}"


def class_table(ap_by_class: Mapping[str, float | None], columns: int = 3) -> str:
    """AP of each class as lines of ``columns`` classes; ``-`` if there is no object to find."""
    width = max(map(len, ap_by_class), default=0)
    cells = [f"{name:<{width}}  {metric_text(ap):>5}" for name, ap in ap_by_class.items()]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return "\n".join(" " + "    ".join(row) for row in rows)


def progress_bar(
    total: int | None, unit: str, shown: bool = True, items: Iterable[T] | None = None
) -> "tqdm[T]":
    """Makes a progress bar; without a terminal, it is a line every 30 seconds.

    Args:
        total: number of items; None if it is unknown.
        unit: name of one item.
        shown: False: nothing is shown.
        items: items to iterate over through the bar; None: call its ``update`` for each item.
    """
    interval = 0.5 if sys.stderr.isatty() else 30
    options: dict[str, Any] = {"total": total, "unit": unit, "disable": not shown}
    return tqdm(items, mininterval=interval, dynamic_ncols=True, **options)


def write_results(
    metrics: Metrics, dataset: CocoDetection, folder: Path, about: Mapping[str, Any]
) -> None:
    """Writes ``results.json`` and, where there are annotations, ``metrics.json``; logs the table.

    Args:
        metrics: result of the evaluation.
        dataset: the split that was evaluated.
        folder: folder for the files; made if it is missing.
        about: more entries of ``metrics.json``: config, snapshot and so on.
    """
    write_json(folder / "results.json", metrics.results)
    scores = metrics.scores
    if scores is None:
        logger.info(
            "%s has no annotations to compare with: no metrics; the detections are in %s",
            dataset.annotation_file,
            folder / "results.json",
        )
        return
    content = {
        **about,
        "images": metrics.images,
        "skipped_images": metrics.skipped,
        "seconds": round(metrics.seconds, 2),
        "images_per_second": round(metrics.images_per_second, 2),
        "seconds_by_stage": metrics.timing,
        **scores.metrics,
        "AP_by_class": scores.ap_by_class,
    }
    write_json(folder / "metrics.json", content, indent=2)
    logger.info("%s\n\nAP of each class\n%s\n", scores.table, class_table(scores.ap_by_class))
    logger.info(
        "%d images in %.1f s (%.2f a second); files in %s",
        metrics.images,
        metrics.seconds,
        metrics.images_per_second,
        folder,
    )
