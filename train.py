"""Trains a detector.

    python train.py CornerNet_Squeeze                    # configs/CornerNet_Squeeze.json
    python train.py CornerNet_Squeeze --iter 5000        # goes on from the snapshot of step 5000
    python train.py CornerNet_Squeeze-mine --weights CornerNet_Squeeze_500000.pkl   # fine-tunes
    python train.py CornerNet --set system.batch_size=4 --set 'system.chunk_sizes=[4]'

Snapshots and log.jsonl go into <cache_dir>/nnet/<config>/. Ctrl-C or SIGTERM finishes the step,
saves, says how to resume, and ends with exit code 1; a second one ends at once.
"""

import argparse
import logging
import shlex

from core import engine
from core.arguments import script_parser
from core.config import CONFIG_DIR, load_config
from core.device import choose_device
from core.errors import run
from core.guards import NonFiniteLoss, Stopped
from core.training import prepare

logger = logging.getLogger(__name__)


def main(words: list[str]) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(words)
    overrides = list(options.set)
    if options.workers is not None:
        overrides.append(f"system.workers={options.workers}")
    config = load_config(options.config, overrides=overrides, config_dir=options.config_dir)
    training = prepare(config, choose_device(options.device), options.iter, options.weights)
    if options.initialize:
        training.save(0)
        return 0
    log = training.open_log(options.tensorboard)
    logger.info("to go on after step N: %s", _resume_command(options, "N"))
    try:
        engine.train(
            training.detector,
            training.optimizer,
            training.batches(),
            training.validation_batches(),
            start=training.start,
            system=config.system,
            device=training.device,
            database=training.database,
            save=training.save,
            log=log,
        )
    except (Stopped, NonFiniteLoss) as reason:
        logger.error("training stopped: %s", reason, exc_info=reason.__cause__)
        if training.saved is not None:
            logger.error("to go on: %s", _resume_command(options, training.saved))
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--iter", type=int, metavar="N", help="resume from the snapshot of step N")
    start.add_argument(
        "--weights",
        metavar="FILE",
        help="start from these weights; with another number of classes, the class heads start anew",
    )
    start.add_argument(
        "--initialize",
        action="store_true",
        help="save the initial weights as the snapshot of step 0, and end",
    )
    parser.add_argument("--workers", type=int, metavar="W", help="processes that make batches")
    parser.add_argument("--tensorboard", action="store_true", help="write a TensorBoard log too")
    return parser


def _resume_command(options: argparse.Namespace, iteration: int | str) -> str:
    words = ["python", "train.py", options.config, "--iter", str(iteration)]
    for name, value in vars(options).items():
        if name in ("workers", "device", "config_dir") and value not in (None, str(CONFIG_DIR)):
            words += [f"--{name.replace('_', '-')}", str(value)]
    words += [word for override in options.set for word in ("--set", override)]
    return shlex.join(words + ["--tensorboard"] * options.tensorboard)


if __name__ == "__main__":
    run(main)
