"""The report of an evaluation: one HTML page that needs nothing else, no network and no script."""

import base64
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint.files import write_together
from ..config.errors import UserError
from ..data.coco import CocoDetection
from . import analysis, errors, report_plots, report_tiles
from .coco import Metrics
from .matching import find_matches
from .plotting import drawing_style
from .report import metric_text

logger = logging.getLogger(__name__)

IOUS = (errors.FOREGROUND, 0.75)  # of the curves; the first one decides what is right or wrong
PLOTTED_CLASSES = 40  # those with the most objects
CONFUSED_CLASSES = 30  # rows of the confusion matrix, those that are confused most
_TEMPLATE = Path(__file__).with_name("report.html")


@dataclass(frozen=True)
class ClassRow:
    """A class in the report's table: its AP, its curves, and plots of them, or none."""

    name: str
    ap: float | None
    ap50: float | None
    curves: analysis.ClassCurves
    plots: list[str]


@dataclass(frozen=True)
class Confusions:
    """Some rows and columns of a confusion matrix.

    Attributes:
        names: of the rows and columns, the last one background or missed.
        counts: int64 [k, k].
        parts: float64 [k, k], the counts by the number of objects of their row.
        left_out: number of classes that are not among them.
    """

    names: list[str]
    counts: np.ndarray
    parts: np.ndarray
    left_out: int


def require_report_packages() -> None:
    """Checks that the packages of the report are there, before an evaluation takes its time.

    Raises:
        UserError: one of them is not installed.
    """
    try:
        import jinja2  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f'--report needs jinja2 and matplotlib ({error}): pip install "cornerkit[report]", or '
            "pip install jinja2 matplotlib"
        ) from None
    with drawing_style():
        pass


def require_annotations(dataset: CocoDetection) -> None:
    """Refuses a split that detections cannot be compared with.

    Raises:
        UserError: it has no annotations.
    """
    if not dataset.has_annotations:
        raise UserError(
            f"--report compares with annotations, and {dataset.annotation_file} has none; choose "
            "another --split, or leave out --report"
        )


def write_report(
    path: Path,
    metrics: Metrics,
    dataset: CocoDetection,
    about: Mapping[str, Any],
    config: Mapping[str, Any],
) -> None:
    """Writes the report of an evaluation.

    Args:
        path: the HTML file, replaced if it is there.
        metrics: result of the evaluation, with scores.
        dataset: the split that was evaluated; of its images only those shown are read.
        about: config, snapshot, split and so on, by name.
        config: sections of the config.
    """
    page = report_page(metrics, dataset, about, config)
    content = page.encode("utf-8", "backslashreplace")
    write_together({path: lambda file: file.write(content)})
    logger.info("report: %s (%.1f MB)", path, len(content) / 1e6)


def report_page(
    metrics: Metrics, dataset: CocoDetection, about: Mapping[str, Any], config: Mapping[str, Any]
) -> str:
    """Makes the HTML of a report; arguments as of :func:`write_report`."""
    assert metrics.scores is not None
    names = [_printable(name) for name in dataset.class_names]
    matched = dict(zip(IOUS, find_matches(metrics.results, dataset, IOUS), strict=True))
    first = matched[IOUS[0]]
    causes = errors.find_causes(first)
    by_class = analysis.curves_by_class(matched, len(names))
    overall = analysis.overall_curves(matched, by_class)
    threshold = overall.best.threshold if overall.best else 0.0
    confusion = analysis.confusion_matrix(first, threshold, IOUS[0], len(names))
    return _template().render(
        about=about,
        metrics=metrics,
        scores=metrics.scores.metrics,
        overall=overall,
        threshold=threshold,
        precision_plot=report_plots.precision_plot(overall),
        score_plot=report_plots.score_plot(overall),
        errors=errors.count_errors(first, causes, dataset.class_names).overall,
        error_names=errors.NAMES,
        sizes=analysis.size_buckets(first),
        classes=_class_rows(names, list(metrics.scores.ap_by_class.values()), by_class),
        plotted_classes=PLOTTED_CLASSES,
        confusions=_confusions(confusion, names),
        false_positives=report_tiles.false_positive_tiles(first, causes, dataset, threshold),
        misses=report_tiles.miss_tiles(first, dataset, threshold),
        missed_objects=int((first.object_scores < threshold).sum()),
        timing=metrics.timing,
        config=json.dumps(config, indent=2, ensure_ascii=False),
    )


def _class_rows(
    names: list[str], aps: list[float | None], by_class: list[analysis.ClassCurves]
) -> list[ClassRow]:
    objects = np.array([curves.objects for curves in by_class])
    plotted = set(np.argsort(-objects, kind="stable")[:PLOTTED_CLASSES].tolist())
    plots = report_plots.precision_plot, report_plots.score_plot
    rows = []
    for label, (name, ap, curves) in enumerate(zip(names, aps, by_class, strict=True)):
        has_plots = label in plotted and curves.objects > 0
        rows.append(
            ClassRow(
                name=name,
                ap=ap,
                ap50=float(curves.precision[IOUS[0]].mean()) if curves.objects else None,
                curves=curves,
                plots=[plot(curves, report_plots.SMALL) for plot in plots] if has_plots else [],
            )
        )
    return rows


def _confusions(counts: np.ndarray, names: list[str]) -> Confusions:
    """Chooses the classes that are confused with others most, if there are too many to show."""
    classes = len(names)
    inner = counts[:classes, :classes].copy()
    np.fill_diagonal(inner, 0)
    mistakes = inner.sum(0) + inner.sum(1)
    kept = np.sort(np.argsort(-mistakes, kind="stable")[:CONFUSED_CLASSES])
    places = np.append(kept, classes)
    totals = np.maximum(counts.sum(1, keepdims=True), 1)
    return Confusions(
        names=[names[label] for label in kept.tolist()],
        counts=counts[np.ix_(places, places)],
        parts=(counts / totals)[np.ix_(places, places)],
        left_out=classes - len(kept),
    )


def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters.update(
        metric=metric_text,
        printable=_printable,
        jpeg_uri=lambda content: _data_uri("image/jpeg", content),
        svg_uri=lambda text: _data_uri("image/svg+xml", text.encode()),
    )
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _printable(text: Any) -> str:
    """Writes lone surrogates, which no encoding has, as escapes."""
    return str(text).encode("utf-8", "backslashreplace").decode()
