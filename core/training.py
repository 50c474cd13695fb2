"""What a training run is made of, put together from a config."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from core import checkpoint, models
from core.batch import Batch
from core.checkpoint import Meta
from core.config import Config
from core.dbs.coco import CocoDetection
from core.dbs.splits import open_split
from core.device import place_
from core.errors import UserError
from core.log import RunLog
from core.models.detector import Detector
from core.sample.loader import training_loader, validation_loader
from core.schedule import build_optimizer, learning_rate_at

logger = logging.getLogger(__name__)


@dataclass
class Run:
    """A run that is ready to start.

    Attributes:
        config: its config.
        database: the training split.
        validation: the validation split, or None when ``val_iter`` is 0.
        detector: its network is on ``device``.
        optimizer: of the network's parameters.
        device: where the network is.
        start: steps behind the weights.
        saved: iteration of the newest snapshot of this run; None before the first.
    """

    config: Config
    database: CocoDetection
    validation: CocoDetection | None
    detector: Detector
    optimizer: torch.optim.Optimizer
    device: torch.device
    start: int
    saved: int | None = None

    @property
    def folder(self) -> Path:
        """Where snapshots and the log go."""
        return checkpoint.snapshot_path(self.config.system.cache_dir, self.config.name, 0).parent

    def batches(self) -> Iterable[Batch]:
        """A loader of training batches, the first of them that of step ``start + 1``."""
        system = self.config.system
        return training_loader(
            self.database,
            self.detector.sample,
            batch_size=system.batch_size,
            seed=system.seed,
            workers=system.workers,
            prefetch=system.prefetch_size,
            start_iteration=self.start,
            pin_memory=self.device.type == "cuda",
        )

    def validation_batches(self) -> Iterable[Batch] | None:
        """A loader of validation batches, first that of the next validation; None without one."""
        if self.validation is None:
            return None
        system = self.config.system
        return validation_loader(
            self.validation,
            self.detector.sample,
            batch_size=system.batch_size,
            workers=min(system.workers, 1),
            prefetch=1,
            start_iteration=self.start // system.val_iter,
            pin_memory=self.device.type == "cuda",
        )

    def open_log(self, tensorboard: bool = False) -> RunLog:
        """Starts the run's log, and says what the run is about to do."""
        for line in describe(self):
            logger.info("%s", line)
        system = self.config.system
        return RunLog(
            self.folder,
            start=self.start,
            stop=system.max_iter,
            batch_size=system.batch_size,
            pictures=len(self.database),
            display=system.display,
            tensorboard=tensorboard,
            facts={"device": str(self.device), "config": self.config.as_dict()},
        )

    def save(self, iteration: int) -> Path:
        """Saves a snapshot of the run as it is, ``iteration`` steps behind it; returns its path."""
        config = self.config
        path = checkpoint.snapshot_path(config.system.cache_dir, config.name, iteration)
        meta = Meta(
            name=config.name,
            iteration=iteration,
            class_names=self.database.class_names,
            config=config.as_dict(),
            versions=checkpoint.versions(),
        )
        state = {
            "iteration": iteration,
            "batch_size": config.system.batch_size,
            "seed": config.system.seed,
            "opt_algo": config.system.opt_algo,
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
        }
        checkpoint.save_snapshot(path, self.detector.network, state, meta)
        self.saved = iteration
        logger.info("saved %s", path)
        return path


def prepare(
    config: Config, device: torch.device, iteration: int | None = None, weights: str | None = None
) -> Run:
    """Opens the data, builds the detector and gives it the weights to start from.

    Fresh weights are drawn from ``system.seed``, and PyTorch's random numbers start from it, so two
    runs of a config are alike.

    Args:
        config: of the run.
        device: where to train.
        iteration: resume from the snapshot of this iteration.
        weights: a file to start from instead, of any number of classes; ``system.pretrain`` by
            default.

    Raises:
        UserError: the data or the snapshot is missing or unfit, or the model does not exist.
    """
    system = config.system
    path = None
    if iteration is not None:
        path = checkpoint.snapshot_path(system.cache_dir, config.name, iteration)
        checkpoint.require_snapshot(path)
    database = open_split(system, config.db, system.train_split)
    validation = open_split(system, config.db, system.val_split) if system.val_iter else None
    if validation is not None:
        _require_classes(validation.class_names, database, str(validation.annotation_file))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(system.seed)
        detector = models.build(config, len(database.class_names))
    place_(detector.network, device, system.channels_last)
    optimizer = build_optimizer(
        detector.network.parameters(), system.opt_algo, system.learning_rate
    )
    run = Run(config, database, validation, detector, optimizer, device, iteration or 0)
    torch.manual_seed(system.seed)  # some networks draw samples in training
    if path is not None:
        _resume(run, path)
        run.saved = iteration
    elif weights or system.pretrain:
        _start_from(run, str(weights or system.pretrain))
    elif detector.load_pretrained_ is not None:
        detector.load_pretrained_()
    return run


def describe(run: Run) -> list[str]:
    """What a run is about to do, line by line."""
    system = run.config.system
    parameters = sum(parameter.numel() for parameter in run.detector.network.parameters())
    name = torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else ""
    chunks = f" in chunks of {list(system.chunk_sizes)}" if system.chunk_sizes else ""
    lines = [
        f"device: {run.device} {name}".rstrip() + f", {system.precision}",
        f"network: {run.config.model_name}, {parameters:,} parameters",
        f"steps: {run.start + 1} to {system.max_iter}, {system.batch_size} pictures each{chunks}; "
        f"a snapshot every {system.snapshot}",
        f"snapshots and log: {run.folder}",
    ]
    newest = checkpoint.newest_snapshot(system.cache_dir, run.config.name)
    if newest is not None and newest[1] > run.start:
        lines.append(
            f"note: {newest[0]} is of an earlier run; this one overwrites snapshots as it comes to "
            f"their iterations (--iter {newest[1]} goes on from there instead)"
        )
    return lines


def _require_classes(names: Sequence[str], database: CocoDetection, owner: str) -> None:
    if tuple(names) != tuple(database.class_names):
        raise UserError(
            f"{owner} has the classes {', '.join(names)}, and {database.annotation_file} has "
            f"{', '.join(database.class_names)}; they must be the same"
        )


def _resume(run: Run, path: Path) -> None:
    """Takes weights, optimiser and random state from a snapshot."""
    system = run.config.system
    meta = checkpoint.read_meta(path)
    if meta is not None:
        _require_classes(meta.class_names, run.database, str(path))
    state = checkpoint.load_training_state(path)
    checkpoint.load_weights(run.detector.network, path, run.detector.class_head_keys)
    if state is None:
        rate = learning_rate_at(
            run.start + 1, system.learning_rate, system.stepsize, system.decay_rate
        )
        logger.warning(
            "%s has weights alone: the optimiser starts anew, the learning rate is %g by the "
            "iteration",
            path,
            rate,
        )
        return
    if state.get("opt_algo") != system.opt_algo:
        raise UserError(
            f"{path} was trained with {state.get('opt_algo')} and system.opt_algo is "
            f"{system.opt_algo}; --weights {path} starts from its weights alone"
        )
    for key in ("batch_size", "seed"):
        if state[key] != getattr(system, key):
            logger.warning(
                "system.%s was %s and is %s: the pictures of the steps to come are not those that "
                "the run would have seen",
                key,
                state[key],
                getattr(system, key),
            )
    run.optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    if run.device.type == "cuda" and len(state["random_cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["random_cuda"])


def _start_from(run: Run, weights: str) -> None:
    left = checkpoint.load_weights(
        run.detector.network, weights, run.detector.class_head_keys, fine_tune=True
    )
    logger.info("weights: %s", weights)
    if left:
        logger.info("another number of classes: freshly initialised: %s", ", ".join(left))
