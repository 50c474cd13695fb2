"""Evaluates a trained detector on a split of its data set.

    python evaluate.py CornerNet_Squeeze                        # newest snapshot, validation split
    python evaluate.py CornerNet --testiter 500000 --suffix multi_scale --reference-scoring
    python evaluate.py CornerNet --snapshot CornerNet_best.pkl --split testing
    torchrun --nproc_per_node 4 evaluate.py CornerNet           # four GPUs share the pictures

Writes results.json and metrics.json into <result_dir>/<config>/<iteration>/<split>/, with --debug
also pictures of detections beside the ground truth.
"""

import logging

from core.cli import add_snapshot_arguments, load_chosen_detector, script_parser
from core.config.errors import run
from core.distributed.join import join_ranks
from core.evaluation.run import SPLITS, evaluate_detector
from core.evaluation.shares import ImageError
from core.models.device import choose_device, make_current

logger = logging.getLogger(__name__)


def main(words: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = script_parser(__doc__)
    add_snapshot_arguments(parser)
    parser.add_argument("--split", choices=SPLITS, default="validation")
    parser.add_argument("--suffix", help="use <config>-<suffix>.json, with the weights of <config>")
    parser.add_argument("--debug", action="store_true", help="draw detections and ground truth")
    parser.add_argument(
        "--reference-scoring",
        action="store_true",
        help="keep the reference's rounding and the rows its soft-NMS leaves behind",
    )
    parser.add_argument("--workers", type=int, metavar="W", help="processes that decode pictures")
    options = parser.parse_args(words)
    if options.reference_scoring:
        options.set.append("db.reference_scoring=true")
    if options.workers is not None:
        options.set.append(f"system.workers={options.workers}")
    with join_ranks() as ranks:
        with ranks.agree_on_errors():
            options.device = choose_device(
                options.device, ranks.local_rank if ranks.world_size > 1 else None
            )
            make_current(options.device)
            detector = load_chosen_detector(options, options.suffix)
        try:
            evaluate_detector(detector, options.split, options.debug, ranks)
        except ImageError as error:  # all ranks raise the same one
            if ranks.is_main:
                logger.error("error: %s", error, exc_info=error.__cause__)
            return 1
    return 0


if __name__ == "__main__":
    run(main)
