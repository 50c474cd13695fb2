"""Evaluates a trained detector on a split of its dataset.

    python evaluate.py CornerNet_Squeeze                        # newest snapshot, validation split
    python evaluate.py CornerNet --testiter 500000 --suffix multi_scale --reference-scoring
    python evaluate.py CornerNet --snapshot best --split testing
    torchrun --nproc_per_node 4 evaluate.py CornerNet           # four GPUs divide the images

Writes results.json and metrics.json into <result_dir>/<config>/<iteration>/<split>/, with --debug
also drawings of what is right, wrong and missed, with --report a page about it: report.html.
"""

import argparse
import logging
from pathlib import Path

from ..cli import add_snapshot_arguments, command_parser, load_chosen_detector
from ..config.errors import UserError
from ..data.coco import CocoDetection
from ..data.splits import open_split
from ..distributed import join_ranks
from ..models.device import choose_device, make_current
from ..models.loading import LoadedDetector
from .evaluator import EvaluationError, evaluate
from .html_report import require_annotations, require_report_packages, write_report
from .report import write_results

logger = logging.getLogger(__name__)

# The command line's names of the splits, and the keys of the config's system section.
SPLITS = {"training": "train_split", "validation": "val_split", "testing": "test_split"}


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit code."""
    options = _parse(argv)
    with join_ranks() as ranks:
        with ranks.agree_on_errors():
            local_rank = ranks.local_rank if ranks.world_size > 1 else None
            options.device = choose_device(options.device, local_rank)
            make_current(options.device)
            loaded = load_chosen_detector(options, options.suffix)
            config, dataset = loaded.config, open_dataset(loaded, options.split)
            if options.report:
                require_report_packages()
                require_annotations(dataset)
        folder = evaluation_folder(loaded, options.split)
        try:
            with ranks.agree_on_errors():
                metrics = evaluate(
                    loaded.detector,
                    dataset,
                    config,
                    batch=options.batch,
                    ranks=ranks,
                    show_progress=True,
                    debug_dir=folder / "debug" if options.debug else None,
                )
        except EvaluationError as error:  # all ranks raise the same one
            if ranks.is_main:
                logger.error("error: %s", error, exc_info=error.__cause__)
            return 1
        if ranks.is_main:
            about = {
                "config": config.name,
                "snapshot": str(loaded.snapshot),
                "iteration": loaded.iteration,
                "split": options.split,
                "annotation_file": str(dataset.annotation_file),
                "reference_scoring": config.db.reference_scoring,
            }
            write_results(metrics, dataset, folder, about)
            if options.report:
                write_report(folder / "report.html", metrics, dataset, about, config.as_dict())
        ranks.barrier()
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    """Parses the command line; settings that arguments change are among the overrides.

    Raises:
        UserError: ``--batch`` is negative.
    """
    parser = command_parser("evaluate", __doc__)
    add_snapshot_arguments(parser)
    parser.add_argument("--split", choices=SPLITS, default="validation")
    parser.add_argument("--suffix", help="use <config>-<suffix>.json, with the weights of <config>")
    parser.add_argument("--debug", action="store_true", help="draw detections and ground truth")
    parser.add_argument("--report", action="store_true", help="write report.html, a page to read")
    parser.add_argument(
        "--reference-scoring",
        action="store_true",
        help="keep the reference's rounding and the rows its soft-NMS leaves behind",
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=0,
        metavar="N",
        help="images that go through the network together; 0, the default: chosen by memory",
    )
    parser.add_argument("--workers", type=int, metavar="W", help="processes that decode images")
    options = parser.parse_args(argv)
    if options.reference_scoring:
        options.set.append("db.reference_scoring=true")
    if options.workers is not None:
        options.set.append(f"system.workers={options.workers}")
    if options.batch < 0:
        raise UserError(f"--batch {options.batch} must be at least 0")
    return options


def open_dataset(loaded: LoadedDetector, split: str) -> CocoDetection:
    """Opens the dataset to evaluate a detector on.

    Args:
        loaded: the detector; its config names the data.
        split: a key of :data:`SPLITS`.

    Raises:
        UserError: there is no such split, its data cannot be used, or it has other classes.
    """
    if split not in SPLITS:
        raise UserError(f"there is no split {split!r}; there are {', '.join(SPLITS)}")
    system, db = loaded.config.system, loaded.config.db
    dataset = open_split(system, db, getattr(system, SPLITS[split]))
    require_same_classes(loaded, dataset)
    return dataset


def evaluation_folder(loaded: LoadedDetector, split: str) -> Path:
    """Folder of what is found out about a detector on a split, one of :data:`SPLITS`."""
    config = loaded.config
    iteration = loaded.snapshot.stem if loaded.iteration is None else str(loaded.iteration)
    return Path(config.system.result_dir) / config.name / iteration / split


def require_same_classes(loaded: LoadedDetector, dataset: CocoDetection) -> None:
    """Refuses a dataset whose classes are not those of a detector.

    Raises:
        UserError: another number of classes, or other names where the weights came with names.
    """
    own, others = loaded.class_names, dataset.class_names
    if len(own) != len(others):
        difference = f"{len(own)} classes and {dataset.annotation_file} has {len(others)}"
    else:
        pairs = zip(own, others, strict=True)
        different = [f"{mine!r} for {other!r}" for mine, other in pairs if mine != other]
        if not (loaded.names_known and different):
            return
        difference = f"other classes than {dataset.annotation_file}: {', '.join(different[:3])}"
    raise UserError(
        f"{loaded.snapshot} detects {difference}; evaluate on the dataset it was trained for"
    )
