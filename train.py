"""Trains a detector.

    python train.py CornerNet_Squeeze                    # configs/CornerNet_Squeeze.json
    python train.py CornerNet_Squeeze --resume           # goes on from the latest snapshot, if any
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

import torch
import torch.distributed as dist

from core.checkpoint.run_directory import latest_valid
from core.cli import script_parser
from core.config.errors import UserError, run
from core.config.loading import load_config
from core.distributed.join import join_ranks
from core.distributed.launch import add_distributed_arguments, is_launcher, launch
from core.distributed.ranks import Ranks
from core.models.device import choose_device, make_current
from core.train import loop as engine
from core.train.description import describe
from core.train.guards import NonFiniteLoss, Stopped, out_of_memory
from core.train.run import Run, prepare

logger = logging.getLogger(__name__)

_START = ("config", "iter", "weights", "initialize", "resume", "set")  # options of a start


def main(words: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(words)
    if options.resume and (options.initialize or options.iter is not None):
        parser.error("argument --resume: not allowed with --iter or --initialize")
    if is_launcher(options):
        return launch(options, __file__, words)
    with join_ranks() as ranks:
        training = _prepare(options, ranks)
        try:
            with training.snapshots:
                if options.initialize:
                    training.save(0)
                else:
                    _train(training, options)
        except UserError:  # all ranks raise the same one
            if ranks.is_main:
                raise
            return 2
        except torch.OutOfMemoryError as error:  # of this rank: it leaves the others alone
            logger.error("error: %s", out_of_memory(error, training.config.system))
            raise SystemExit(1) from None
        except (Stopped, NonFiniteLoss) as reason:
            if ranks.is_main:
                logger.error("training stopped: %s", reason, exc_info=reason.__cause__)
        else:
            if not training.snapshots.failed:
                return 0
        if training.snapshots.saved is not None:
            logger.error("to go on: %s", _resume_command(options, training.snapshots.saved))
        return 1


def _prepare(options: argparse.Namespace, ranks: Ranks) -> Run:
    overrides = list(options.set)
    if options.workers is not None:
        overrides.append(f"system.workers={options.workers}")
    with ranks.agree_on_errors():
        config = load_config(options.config, overrides=overrides, config_dir=options.config_dir)
        device = choose_device(options.device, ranks.local_rank if ranks.world_size > 1 else None)
    make_current(device)
    ranks = ranks.with_step_group(config.system.dist_timeout, device, options.dist_backend)
    iteration = options.iter
    if options.resume:
        with ranks.agree_on_errors():
            if ranks.is_main:
                iteration = latest_valid(config.system.cache_dir, config.name)
        iteration = ranks.broadcast(iteration)
    return prepare(config, device, iteration, options.weights, ranks, whole=options.resume)


def _train(training: Run, options: argparse.Namespace) -> None:
    due = training.evaluation_is_due()
    with training.ranks.agree_on_errors():
        evaluate = training.evaluations(due)
        log = training.open_log(options.tensorboard)
    for line in describe(training):
        logger.info("%s", line)
    logger.info("to go on after step N: %s", _resume_command(options, "N"))
    engine.train(
        training.detector,
        training.optimizer,
        training.batches(),
        training.validation_batches(),
        start=training.start,
        system=training.config.system,
        device=training.device,
        dataset=training.dataset,
        save=training.save,
        log=log,
        ranks=training.ranks,
        validation_dataset=training.validation,
        evaluate=evaluate,
        evaluate_first=due,
        finish=training.finish,
    )


def _parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="from the latest whole snapshot; where there is none, start as without it",
    )
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
    words, parser = ["train.py", options.config, "--iter", str(iteration)], _parser()
    for name, value in vars(options).items():
        if name not in _START and value != parser.get_default(name):
            option = f"--{name.replace('_', '-')}"
            words += [option] if value is True else [option, str(value)]
    words += [word for override in options.set for word in ("--set", override)]
    by_torchrun = dist.is_torchelastic_launched() and not options.distributed
    return f"{'torchrun …' if by_torchrun else 'python'} {shlex.join(words)}"


if __name__ == "__main__":
    run(main)
