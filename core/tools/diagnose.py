"""Says what a detector loses AP50 to, on a split of its dataset.

    cornerkit diagnose CornerNet_Squeeze                       # newest snapshot, validation split
    cornerkit diagnose CornerNet --snapshot best --by-class
    cornerkit diagnose CornerNet --results results/CornerNet/500000/validation/results.json

Errors are of the types of TIDE (arXiv:2008.08115): a wrong class, an imprecise box, both, a
duplicate, background, and missed objects. For CornerNet and CornerNet-Squeeze also what they would
reach if the ground truth paired their corners, or placed them; not with --results, which reads
what `cornerkit evaluate` found and runs no network.

Writes diagnosis.json and, with matplotlib, diagnosis.png into
<result_dir>/<config>/<iteration>/<split>/, or beside the file of --results.
"""

import argparse
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..cli import add_snapshot_arguments, command_parser, load_chosen_detector
from ..config.errors import UserError
from ..config.loading import Config, load_config
from ..data.coco import CocoDetection
from ..data.splits import open_split
from ..evaluation.coco import coco_results, score_results
from ..evaluation.command import SPLITS, evaluation_folder, require_same_classes
from ..evaluation.errors import ALL_TYPES, NAMES, TYPES, Breakdown, Errors, find_errors
from ..evaluation.evaluator import EvaluationError, evaluate
from ..evaluation.oracles import ORACLES, Oracles, has_oracles
from ..evaluation.plotting import COLORS, drawing_style, write_figure
from ..evaluation.report import metric_text, write_json
from ..models.loading import LoadedDetector

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger(__name__)

Results: TypeAlias = Sequence[Mapping[str, Any]]  # detections in COCO's format

_ORACLE_NAMES = {
    "own": "the detector itself",
    "pairs": "corners paired",
    "offsets": "corners placed",
    "both": "paired and placed",
}
_PANEL_SIZE = (6.0, 3.4)  # inches, width and height


@dataclass(frozen=True)
class Diagnosis:
    """What a detector loses on a split.

    Attributes:
        about: what was diagnosed, entries of ``diagnosis.json``.
        scores: AP, AP50 and AP75, 0 to 1, by name.
        errors: errors and their costs.
        oracles: AP and AP50 with corners paired or placed by the ground truth, by oracle; None for
            detectors without corners.
    """

    about: Mapping[str, Any]
    scores: Mapping[str, float | None]
    errors: Errors
    oracles: Mapping[str, Mapping[str, float | None]] | None


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit code."""
    parser = command_parser("diagnose", __doc__)
    add_snapshot_arguments(parser)
    parser.add_argument("--split", choices=SPLITS, default="validation")
    parser.add_argument("--suffix", help="use <config>-<suffix>.json, with the weights of <config>")
    parser.add_argument("--results", type=Path, metavar="FILE", help="detections in COCO's format")
    parser.add_argument("--by-class", action="store_true", help="print what each class costs too")
    options = parser.parse_args(argv)
    try:
        if options.results is None:
            diagnosis, folder = _diagnose_detector(options)
        else:
            diagnosis, folder = _diagnose_results(options), options.results.parent
    except EvaluationError as error:
        logger.error("error: %s", error, exc_info=error.__cause__)
        return 1
    write_json(folder / "diagnosis.json", _content(diagnosis), indent=2)
    logger.info("%s\n", table(diagnosis))
    if options.by_class:
        logger.info("%s\n", class_table(diagnosis.errors))
    written = ["diagnosis.json"]
    try:
        draw(diagnosis, folder / "diagnosis.png")
        written.append("diagnosis.png")
    except UserError as error:  # no matplotlib
        logger.warning("no chart: %s", error)
    logger.info("wrote %s into %s", " and ".join(written), folder)
    return 0


def _diagnose_detector(options: argparse.Namespace) -> tuple[Diagnosis, Path]:
    """Detects over the split; returns the diagnosis and the folder of the evaluation."""
    loaded = load_chosen_detector(options, options.suffix)
    config = loaded.config
    dataset = _open(config, options.split)
    require_same_classes(loaded, dataset)
    results, oracles = detect(loaded, dataset)
    about = _about(config, options.split, dataset)
    about.update(snapshot=str(loaded.snapshot), iteration=loaded.iteration)
    folder = evaluation_folder(loaded, options.split)
    return diagnose(results, dataset, about, oracles), folder


def _diagnose_results(options: argparse.Namespace) -> Diagnosis:
    """Diagnoses the file of --results."""
    for name in ("testiter", "snapshot"):
        if getattr(options, name) is not None:
            raise UserError(f"--results holds detections already; leave out --{name}")
    config = load_config(options.config, options.suffix, options.set, options.config_dir)
    dataset = _open(config, options.split)
    results = read_results(options.results, dataset)
    about = {**_about(config, options.split, dataset), "results": str(options.results)}
    return diagnose(results, dataset, about)


def detect(
    loaded: LoadedDetector, dataset: CocoDetection
) -> tuple[Results, dict[str, Results] | None]:
    """Finds the objects of every image, and by the oracles if the detector is one of corners.

    Returns:
        Results in COCO's format, and those by each oracle; None for detectors without corners.

    Raises:
        UserError: an image cannot be decoded.
        EvaluationError: the detector failed on an image.
    """
    detector, config = loaded.detector, loaded.config
    oracles = None
    if has_oracles(detector):
        oracles = Oracles(detector, dataset, config)
        detector = oracles.detector
    else:
        logger.info("no oracles: they are for corners that are found in the whole image at once")
    metrics = evaluate(detector, dataset, config, show_progress=True)
    if oracles is None:
        return metrics.results, None
    rounded = config.db.reference_scoring
    return metrics.results, {
        name: coco_results(found, dataset, rounded) for name, found in oracles.found.items()
    }


def diagnose(
    results: Results,
    dataset: CocoDetection,
    about: Mapping[str, Any],
    oracles: Mapping[str, Results] | None = None,
) -> Diagnosis:
    """Finds what is lost.

    Args:
        results: detections in COCO's format.
        dataset: dataset with annotations.
        about: entries of ``diagnosis.json`` that say what is diagnosed.
        oracles: detections by each of :data:`core.evaluation.oracles.ORACLES`.
    """
    scores = score_results(results, dataset).metrics
    by_oracle = None
    if oracles is not None:
        found = {name: score_results(oracles[name], dataset).metrics for name in ORACLES}
        by_oracle = {name: {key: found[name][key] for key in ("AP", "AP50")} for name in ORACLES}
    return Diagnosis(
        about=about,
        scores={name: scores[name] for name in ("AP", "AP50", "AP75")},
        errors=find_errors(results, dataset),
        oracles=by_oracle,
    )


def read_results(path: Path, dataset: CocoDetection) -> list[dict[str, Any]]:
    """Reads detections in COCO's format.

    Raises:
        UserError: the file is missing or not such a list, or is of another dataset or split.
    """
    try:
        rows = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(rows, list):
        raise UserError(f"{path} does not hold a list of detections, as results.json does")
    images, categories = set(dataset.image_ids.tolist()), set(dataset.category_ids.tolist())
    for number, row in enumerate(rows):
        if not _is_detection(row):
            raise UserError(
                f"{path}: detection {number} must have an image_id, a category_id, a bbox "
                "[x, y, width, height] and a score"
            )
        for key, known in (("image_id", images), ("category_id", categories)):
            if row[key] not in known:
                raise UserError(
                    f"{path}: detection {number} has {key} {row[key]}, which "
                    f"{dataset.annotation_file} does not have; name its --split, or its dataset"
                )
    return rows


def table(diagnosis: Diagnosis) -> str:
    """Describes a diagnosis in lines: scores, errors and what they cost, oracles."""
    overall = diagnosis.errors.overall
    scores = "   ".join(f"{name} {metric_text(value)}" for name, value in diagnosis.scores.items())
    found = overall.objects - overall.counts["false_negative"]
    lines = [
        f"{scores}   {found} of {overall.objects} objects found, at an IoU of 0.5",
        "",
        "error                number   AP50 it costs",
    ]
    for name in ALL_TYPES:
        cost = metric_text(overall.costs[name])
        lines.append(f"{NAMES[name]:<20} {overall.counts[name]:>6}   {cost}")
    if diagnosis.oracles is not None:
        lines += ["", "by the ground truth       AP    AP50"]
        for name, scores_by in {"own": diagnosis.scores, **diagnosis.oracles}.items():
            row = "   ".join(metric_text(scores_by[key]) for key in ("AP", "AP50"))
            lines.append(f"{_ORACLE_NAMES[name]:<20}   {row}")
    return "\n".join(lines)


def class_table(errors: Errors) -> str:
    """AP50 of each class, and what each type of error costs it, as lines."""
    width = max(5, *map(len, errors.by_class))
    names = "".join(f"{NAMES[name]:>15}" for name in TYPES)
    lines = [f"{'class':<{width}}   AP50{names}"]
    for name, of_class in errors.by_class.items():
        costs = "".join(f"{metric_text(of_class.costs[kind]):>15}" for kind in TYPES)
        lines.append(f"{name:<{width}}  {metric_text(of_class.ap50):>5}{costs}")
    return "\n".join(lines)


def draw(diagnosis: Diagnosis, path: Path) -> None:
    """Draws a diagnosis as bars, as PNG: what the errors cost, and what the oracles reach.

    Raises:
        UserError: matplotlib is not installed.
    """
    with drawing_style():
        from matplotlib.figure import Figure

        panels = 1 if diagnosis.oracles is None else 2
        width, height = _PANEL_SIZE
        figure = Figure(figsize=(panels * width, height), layout="constrained")
        about = diagnosis.about
        iteration = about.get("iteration")
        step = "" if iteration is None else f" after step {iteration:,}"
        figure.suptitle(f"{about['config']}{step}, {about['split']}: {about['images']:,} images")
        _draw_costs(figure.add_subplot(1, panels, 1), diagnosis)
        if diagnosis.oracles is not None:
            _draw_oracles(figure.add_subplot(1, panels, 2), diagnosis)
            figure.legend(loc="outside lower right", ncols=2)
        write_figure(figure, path)


def _draw_costs(axes: "Axes", diagnosis: Diagnosis) -> None:
    """Draws a bar for each type; pale ones for the two that overlap with all others."""
    overall = diagnosis.errors.overall
    costs = [overall.costs[name] or 0.0 for name in ALL_TYPES]
    labels = [f"{NAMES[name]} ({overall.counts[name]:,})" for name in ALL_TYPES]
    colors = [COLORS[0] if name in TYPES else COLORS[5] for name in ALL_TYPES]
    bars = axes.barh(np.arange(len(costs)), costs, color=colors, height=0.7)
    axes.bar_label(bars, [metric_text(overall.costs[name]) for name in ALL_TYPES], padding=3)
    title = f"AP50 that each type of error costs (AP50 is {metric_text(overall.ap50)})"
    axes.set_title(title, loc="left")
    _finish(axes, labels, max(0.05, *costs))


def _draw_oracles(axes: "Axes", diagnosis: Diagnosis) -> None:
    """Draws AP and AP50 of the detector itself, and with each oracle."""
    assert diagnosis.oracles is not None
    rows = {"own": diagnosis.scores, **diagnosis.oracles}
    for number, key in enumerate(("AP", "AP50")):
        values = [scores[key] or 0.0 for scores in rows.values()]
        places = np.arange(len(rows)) + 0.38 * (number - 0.5)
        bars = axes.barh(places, values, color=COLORS[4 - 2 * number], height=0.36, label=key)
        axes.bar_label(bars, [metric_text(scores[key]) for scores in rows.values()], padding=3)
    axes.set_title("AP and AP50 with help of the ground truth", loc="left")
    _finish(axes, [_ORACLE_NAMES[name] for name in rows], 1.0)
    axes.set_xticks(np.linspace(0, 1, 6))


def _finish(axes: "Axes", labels: Sequence[str], longest: float) -> None:
    """Names the bars, from the top down, and leaves room for their numbers."""
    axes.set_yticks(np.arange(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.16 * longest)
    axes.grid(visible=False, axis="y")
    axes.set_axisbelow(True)


def _open(config: Config, split: str) -> CocoDetection:
    """Opens a split in which errors can be found.

    Raises:
        UserError: it has no annotations, and as :func:`core.data.splits.open_split`.
    """
    dataset = open_split(config.system, config.db, getattr(config.system, SPLITS[split]))
    if not dataset.has_annotations:
        raise UserError(
            f"{dataset.annotation_file} has no annotations to compare with; choose another --split"
        )
    return dataset


def _about(config: Config, split: str, dataset: CocoDetection) -> dict[str, Any]:
    return {
        "config": config.name,
        "split": split,
        "annotation_file": str(dataset.annotation_file),
        "images": len(dataset),
    }


def _content(diagnosis: Diagnosis) -> dict[str, Any]:
    """The content of ``diagnosis.json``."""
    return {
        **diagnosis.about,
        **diagnosis.scores,
        **_of_breakdown(diagnosis.errors.overall),
        "oracles": diagnosis.oracles,
        "by_class": {
            name: {"AP50": of_class.ap50, **_of_breakdown(of_class)}
            for name, of_class in diagnosis.errors.by_class.items()
        },
    }


def _of_breakdown(errors: Breakdown) -> dict[str, Any]:
    return {"objects": errors.objects, "counts": errors.counts, "AP50_costs": errors.costs}


def _is_detection(row: Any) -> bool:
    if not isinstance(row, dict) or not {"image_id", "category_id", "bbox", "score"} <= set(row):
        return False
    bbox = row["bbox"]
    if not (isinstance(bbox, list) and len(bbox) == 4):
        return False
    ids = (row["image_id"], row["category_id"])
    return all(isinstance(identity, int) for identity in ids) and all(
        isinstance(number, int | float) and math.isfinite(number)
        for number in (*bbox, row["score"])
    )
