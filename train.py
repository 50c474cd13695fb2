"""Trains a detector.

    python train.py CornerNet_Squeeze                    # configs/CornerNet_Squeeze.json
    python train.py CornerNet_Squeeze --iter 5000        # goes on from the snapshot of step 5000
    python train.py CornerNet_Squeeze-mine --weights CornerNet_Squeeze_500000.pkl   # fine-tunes
    python train.py CornerNet --set system.batch_size=4 --set 'system.chunk_sizes=[4]'
    torchrun --nproc_per_node 2 train.py CornerNet       # on two GPUs; the steps are the same
    python train.py CornerNet --distributed              # on all GPUs of this machine

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
from core.distributed import Ranks, join_ranks
from core.errors import UserError, run
from core.guards import NonFiniteLoss, Stopped
from core.launch import add_distributed_arguments, is_launcher, launch
from core.training import Run, prepare

logger = logging.getLogger(__name__)


def main(words: list[str]) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(words)
    if is_launcher(options):
        return launch(options, __file__, words)
    with join_ranks() as ranks:
        training = _prepare(options, ranks)
        if options.initialize:
            training.save(0)
            return 0
        return _train(training, options)


def _prepare(options: argparse.Namespace, ranks: Ranks) -> Run:
    overrides = list(options.set)
    if options.workers is not None:
        overrides.append(f"system.workers={options.workers}")
    with ranks.alike():
        config = load_config(options.config, overrides=overrides, config_dir=options.config_dir)
        device = choose_device(options.device, ranks.local_rank if ranks.world > 1 else None)
    ranks = ranks.with_steps(config.system.dist_timeout, device, options.dist_backend)
    return prepare(config, device, options.iter, options.weights, ranks)


def _train(training: Run, options: argparse.Namespace) -> int:
    ranks = training.ranks
    with ranks.alike():
        evaluate = training.evaluations()
        log = training.open_log(options.tensorboard)
    logger.info("to go on after step N: %s", _resume_command(options, "N"))
    try:
        engine.train(
            training.detector,
            training.optimizer,
            training.batches(),
            training.validation_batches(),
            start=training.start,
            system=training.config.system,
            device=training.device,
            database=training.database,
            save=training.save,
            log=log,
            ranks=ranks,
            validation_database=training.validation,
            evaluate=evaluate,
        )
    except UserError:  # all ranks raise the same one
        if ranks.first:
            raise
        return 2
    except (Stopped, NonFiniteLoss) as reason:
        if ranks.first:
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
    add_distributed_arguments(parser)
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
