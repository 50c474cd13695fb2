"""Evaluates a trained detector on a split of its data set.

    python evaluate.py CornerNet_Squeeze                        # newest snapshot, validation split
    python evaluate.py CornerNet --testiter 500000 --suffix multi_scale --reference-scoring
    python evaluate.py CornerNet --snapshot CornerNet_500000.pkl --split testing

Writes results.json and metrics.json into <result_dir>/<config>/<iteration>/<split>/, with --debug
also pictures of detections beside the ground truth.
"""

import argparse

from core.detectors import load_detector
from core.errors import run
from core.evaluation.run import SPLITS, evaluate_detector


def main(words: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="config in configs/, without .json")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--testiter", type=int, metavar="N", help="iteration of the snapshot")
    weights.add_argument("--snapshot", metavar="FILE", help="file of weights")
    parser.add_argument("--split", choices=SPLITS, default="validation")
    parser.add_argument("--suffix", help="use configs/<name>-<suffix>.json, with <name>'s weights")
    parser.add_argument("--debug", action="store_true", help="draw detections and ground truth")
    parser.add_argument(
        "--reference-scoring",
        action="store_true",
        help="keep the reference's rounding and the rows its soft-NMS leaves behind",
    )
    parser.add_argument("--workers", type=int, metavar="W", help="processes that decode pictures")
    parser.add_argument("--device", help="cuda, cuda:1, cpu …; a GPU if there is one by default")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override a setting of the config, as --set db.top_k=50",
    )
    options = parser.parse_args(words)
    overrides = list(options.set)
    if options.reference_scoring:
        overrides.append("db.reference_scoring=true")
    if options.workers is not None:
        overrides.append(f"system.workers={options.workers}")
    snapshot = options.testiter if options.snapshot is None else options.snapshot
    detector = load_detector(
        options.name, snapshot, options.device, suffix=options.suffix, overrides=overrides
    )
    evaluate_detector(
        detector, options.split, workers=detector.config.system.workers, debug=options.debug
    )
    return 0


if __name__ == "__main__":
    run(main)
