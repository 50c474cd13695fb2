"""Trains a detector.

    python train.py CornerNet_Squeeze                    # configs/CornerNet_Squeeze.json
    python train.py CornerNet_Squeeze --resume           # resumes from the newest valid snapshot
    python train.py CornerNet_Squeeze --iter 5000        # resumes from the snapshot of step 5000
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
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from ..checkpoint.run_directory import RunDirectory
from ..cli import command_parser
from ..config.errors import UserError
from ..config.loading import Config, load_config
from ..distributed import (
    Ranks,
    Stopped,
    add_distributed_arguments,
    is_launcher,
    join_ranks,
    launch,
)
from ..models.device import choose_device, make_current, slow_in_bfloat16
from .chunks import chunk_counts
from .failures import NonFiniteLoss, out_of_memory
from .freezing import describe_backbone
from .log import RunLog
from .loop import train
from .run import TrainingRun, prepare

logger = logging.getLogger(__name__)

_START_OPTIONS = ("config", "iter", "weights", "initialize", "resume", "set")


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.resume and (options.initialize or options.iter is not None):
        parser.error("argument --resume: not allowed with --iter or --initialize")
    config = None if dist.is_torchelastic_launched() else _load_config(options)
    processes = 1 if config is None else config.system.cpu_processes
    if is_launcher(options, processes):
        started = [*_script(), *argv, *([] if options.distributed else ["--distributed"])]
        return launch(options, started, processes)
    with join_ranks() as ranks:
        run = _prepare(options, ranks, config)
        try:
            with run.snapshots:
                if options.initialize:
                    run.save(0)
                else:
                    train(run, _start_log(run, options))
        except UserError:  # all ranks raise the same one
            if ranks.is_main:
                raise
            return 2
        except torch.OutOfMemoryError as error:  # of this rank: it leaves the others alone
            logger.error("error: %s", out_of_memory(error, run.config.system))
            raise SystemExit(1) from None
        except (Stopped, NonFiniteLoss) as reason:
            if ranks.is_main:
                logger.error("training stopped: %s", reason, exc_info=reason.__cause__)
        else:
            if not run.snapshots.failed:
                return 0
        if ranks.is_main and run.snapshots.saved is not None:
            logger.error("to resume: %s", _resume_command(options, run.snapshots.saved))
        return 1


def describe(run: TrainingRun) -> list[str]:
    """Describes in a few lines what a run is about to do."""
    system = run.config.system
    parameters = sum(parameter.numel() for parameter in run.detector.network.parameters())
    name = torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else ""
    chunks = f" in chunks of {list(system.chunk_sizes)}" if system.chunk_sizes else ""
    lines = [f"device: {run.device} {name}".rstrip() + f", {system.precision}"]
    if run.ranks.world_size > 1:
        counts = chunk_counts(system, run.ranks.world_size)
        each = ", ".join(map(str, counts)) if len(set(counts)) > 1 else f"{counts[0]} each"
        lines.append(f"processes: {len(counts)}, for {sum(counts)} chunks a step: {each}")
    lines += [
        f"network: {run.config.model_name}, {parameters:,} parameters",
        f"steps: {run.start + 1} to {system.max_iter}, {system.batch_size} images each{chunks}; "
        f"a snapshot every {system.snapshot}",
        f"snapshots and log: {run.directory.path}",
    ]
    backbone = describe_backbone(system)
    if backbone is not None:
        lines.append(backbone)
    if system.precision == "bfloat16" and slow_in_bfloat16(run.device):
        lines.append(
            "note: this processor has no instructions for bfloat16 (AVX-512 or AMX); "
            "--set system.precision=float32 trains several times faster"
        )
    if system.warmup >= system.max_iter:
        lines.append(
            f"note: system.warmup {system.warmup} lasts for all {system.max_iter} steps: the "
            f"learning rate does not reach {system.learning_rate:g}"
        )
    newest = run.directory.newest()
    if newest is not None and newest[1] > run.start:
        lines.append(
            f"note: {newest[0]} is of an earlier run; this one overwrites snapshots as it comes to "
            f"their iterations (--iter {newest[1]} resumes from there instead)"
        )
    return lines


def open_log(run: TrainingRun, tensorboard: bool = False) -> RunLog:
    """Opens the log of a run, with a header that says what the run is.

    Raises:
        UserError: as :class:`core.training.log.RunLog`.
    """
    return RunLog(
        run.directory.path,
        run.config.system,
        start=run.start,
        images=len(run.dataset),
        tensorboard=tensorboard,
        header={
            "device": str(run.device),
            "processes": run.ranks.world_size,
            "config": run.config.as_dict(),
        },
    )


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("train", __doc__)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="from the newest valid snapshot; where there is none, start as without it",
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


def _load_config(options: argparse.Namespace) -> Config:
    """Loads the config that the arguments choose and change."""
    overrides = list(options.set)
    if options.workers is not None:
        overrides.append(f"system.workers={options.workers}")
    return load_config(options.config, overrides=overrides, config_dir=options.config_dir)


def _prepare(options: argparse.Namespace, ranks: Ranks, config: Config | None) -> TrainingRun:
    """Makes the run that the arguments describe; ``config`` is theirs, if it is loaded already."""
    with ranks.agree_on_errors():
        config = config or _load_config(options)
        local_rank = ranks.local_rank if ranks.world_size > 1 else None
        device = choose_device(options.device, local_rank)
    make_current(device)
    ranks = ranks.with_step_group(config.system.dist_timeout, device, options.dist_backend)
    iteration = options.iter
    if options.resume:
        with ranks.agree_on_errors():
            if ranks.is_main:
                iteration = RunDirectory(config.system.cache_dir, config.name).latest_valid()
        iteration = ranks.broadcast(iteration)
    return prepare(
        config,
        device,
        iteration=iteration,
        weights=options.weights,
        ranks=ranks,
        verify=not options.resume,
    )


def _start_log(run: TrainingRun, options: argparse.Namespace) -> RunLog | None:
    """Describes the run and opens its log; None on ranks that do not log."""
    for line in describe(run):
        logger.info("%s", line)
    logger.info("to resume after step N: %s", _resume_command(options, "N"))
    with run.ranks.agree_on_errors():
        return open_log(run, options.tensorboard) if run.ranks.is_main else None


def _script() -> list[str]:
    """Start of the command line that runs this command again, in torchrun's form."""
    if Path(sys.argv[0]).name == "train.py":
        return [sys.argv[0]]
    return ["--module", f"{__package__.partition('.')[0]}.cli", "train"]


def _resume_command(options: argparse.Namespace, iteration: int | str) -> str:
    """Command that resumes the run from the snapshot of an iteration."""
    arguments, parser = [options.config, "--iter", str(iteration)], _parser()
    for name, value in vars(options).items():
        if name not in _START_OPTIONS and value != parser.get_default(name):
            option = f"--{name.replace('_', '-')}"
            arguments += [option] if value is True else [option, str(value)]
    arguments += [part for override in options.set for part in ("--set", override)]
    command = "python train.py" if parser.prog == "train.py" else "cornerkit train"
    if dist.is_torchelastic_launched() and not options.distributed:
        command = "torchrun … train.py"
    return f"{command} {shlex.join(arguments)}"
