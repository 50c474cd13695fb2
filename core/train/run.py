"""What a training run is made of, put together from a config."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..checkpoint import snapshot as checkpoint
from ..checkpoint.files import remove_unfinished
from ..checkpoint.run_directory import SnapshotWriter
from ..checkpoint.snapshot import Meta
from ..config.loading import Config
from ..data.coco import CocoDetection
from ..data.loader import training_loader, validation_loader
from ..data.splits import open_split
from ..distributed.ranks import ONE_PROCESS, Ranks
from ..evaluation.while_training import Evaluations
from ..models.detector import Detector
from ..structures import Batch
from .chunks import RankChunks, chunk_sizes, rank_chunks
from .fresh import fresh_detector
from .log import FILE_NAME, RunLog, read_log
from .resume import require_classes, take_snapshot_, take_weights_

_LOOK = 1.0  # seconds between two looks whether a snapshot is written


@dataclass
class Run:
    """A run that is ready to start.

    Attributes:
        config: its config.
        dataset: the training split.
        validation: the validation split, or None when ``val_iter`` and ``eval_iter`` are 0.
        detector: its network is on ``device``.
        optimizer: of the network's parameters.
        device: where the network is.
        start: steps behind the weights.
        ranks: this process among those that train together.
        snapshots: writes them; of several ranks, rank 0's does.
    """

    config: Config
    dataset: CocoDetection
    validation: CocoDetection | None
    detector: Detector
    optimizer: torch.optim.Optimizer
    device: torch.device
    start: int
    ranks: Ranks
    snapshots: SnapshotWriter

    @property
    def share(self) -> RankChunks:
        """What this rank computes of every step."""
        return rank_chunks(self.config.system, self.ranks)

    @property
    def folder(self) -> Path:
        """Where snapshots and the log go."""
        return checkpoint.run_folder(self.config.system.cache_dir, self.config.name)

    def batches(self) -> Iterable[Batch]:
        """A loader of this rank's rows of the training batches, from that of step ``start + 1``."""
        system = self.config.system
        return training_loader(
            self.dataset,
            self.detector.sample,
            batch_size=system.batch_size,
            seed=system.seed,
            workers=system.workers,
            prefetch=system.prefetch_size,
            start_iteration=self.start,
            rows=self.share.rows,
            pin_memory=self.device.type == "cuda",
        )

    def validation_batches(self) -> Iterable[Batch] | None:
        """A loader of validation batches, first that of the next validation; None without one."""
        system = self.config.system
        if self.validation is None or not system.val_iter:
            return None
        return validation_loader(
            self.validation,
            self.detector.sample,
            batch_size=system.batch_size,
            workers=min(system.workers, 1),
            prefetch=1,
            start_iteration=self.start // system.val_iter,
            rows=self.share.rows,
            pin_memory=self.device.type == "cuda",
        )

    def evaluation_is_due(self) -> bool:
        """Whether step ``start`` was to be evaluated, and the run ended before it was.

        A patient collective.
        """
        interval, due = self.config.system.eval_iter, False
        if not self.start or not interval or self.start % interval:
            return False
        if self.ranks.is_main:
            log = self.folder / FILE_NAME
            lines = read_log(log) if log.is_file() else []
            due = not any("evaluation" in x and x["iteration"] == self.start for x in lines)
        return self.ranks.broadcast(due)

    def evaluations(self, due: bool = False) -> Evaluations | None:
        """What evaluates the network every ``eval_iter`` steps; None where that is 0.

        Args:
            due: see :meth:`evaluation_is_due`; whatever was kept of that evaluation is void then.
        """
        if self.validation is None or not self.config.system.eval_iter:
            return None
        before = self.start - due
        return Evaluations(
            self.detector, self.validation, self.config, self.device, self.ranks, before
        )

    def open_log(self, tensorboard: bool = False) -> RunLog | None:
        """Starts the run's log; None: another rank does."""
        if not self.ranks.is_main:
            return None
        system = self.config.system
        return RunLog(
            self.folder,
            start=self.start,
            stop=system.max_iter,
            batch_size=system.batch_size,
            pictures=len(self.dataset),
            display=system.display,
            tensorboard=tensorboard,
            facts={
                "device": str(self.device),
                "processes": self.ranks.world_size,
                "config": self.config.as_dict(),
            },
        )

    def save(self, iteration: int) -> None:
        """Starts to save a snapshot of the run as it is, ``iteration`` steps behind it.

        A step's collective, again and again while the snapshot before is still being written: a
        slow disk may take its time, and ranks that are gone are noticed as in any step.
        """
        while any(self.ranks.sum([not self.snapshots.wait(_LOOK)])):
            pass
        if self.ranks.is_main:
            self._write(iteration)

    def _write(self, iteration: int) -> None:
        config, system = self.config, self.config.system
        meta = Meta(
            name=config.name,
            iteration=iteration,
            class_names=self.dataset.class_names,
            config=config.as_dict(),
            versions=checkpoint.versions(),
        )
        state = {
            "iteration": iteration,
            "batch_size": system.batch_size,
            "chunks": list(chunk_sizes(system, self.ranks.world_size)),
            "seed": system.seed,
            "opt_algo": system.opt_algo,
            "optimizer": self.optimizer.state_dict(),
        }
        path = checkpoint.snapshot_path(system.cache_dir, config.name, iteration)
        self.snapshots.write(path, self.detector.network, state, meta)

    def finish(self) -> None:
        """Waits until all snapshots are written; all ranks call this together."""
        self.snapshots.wait()
        self.ranks.barrier()


def prepare(
    config: Config,
    device: torch.device,
    iteration: int | None = None,
    weights: str | None = None,
    ranks: Ranks = ONE_PROCESS,
    whole: bool = False,
) -> Run:
    """Opens the data, builds the detector and gives it the weights to start from.

    Fresh weights are drawn from ``system.seed``, so two runs of a config are alike. All ranks call
    this together; rank 0 alone reads weights, and the others have them once training starts.

    Args:
        config: of the run.
        device: where to train.
        iteration: resume from the snapshot of this iteration.
        weights: a file to start from instead, of any number of classes; ``system.pretrain`` by
            default.
        ranks: this process among those that train together.
        whole: the snapshot is known to be what was saved.

    Raises:
        UserError: the data or the snapshot is missing or unfit, or the model does not exist.
    """
    path = None
    if iteration is not None:
        path = checkpoint.snapshot_path(config.system.cache_dir, config.name, iteration)
    with ranks.agree_on_errors():
        if ranks.is_main:
            remove_unfinished(checkpoint.run_folder(config.system.cache_dir, config.name))
            if path is not None:
                checkpoint.require_snapshot(path)
        run = _fresh_run(config, device, iteration or 0, ranks)
    optimizer_state = None
    with ranks.agree_on_errors():
        if path is not None and ranks.is_main:
            chunks = chunk_sizes(config.system, ranks.world_size)
            optimizer_state = take_snapshot_(
                run.detector, path, run.start, run.dataset, config.system, chunks, whole
            )
            run.snapshots.saved = iteration
        elif ranks.is_main:
            take_weights_(run.detector, weights or config.system.pretrain)
    if path is not None:
        optimizer_state = ranks.broadcast(optimizer_state)
    if optimizer_state is not None:
        run.optimizer.load_state_dict(optimizer_state)
    return run


def _fresh_run(config: Config, device: torch.device, start: int, ranks: Ranks) -> Run:
    """A run with fresh weights, that is to go on from step ``start``."""
    system = config.system
    rank_chunks(system, ranks)
    dataset = open_split(system, config.db, system.train_split)
    validation = None
    if system.val_iter or system.eval_iter:
        validation = open_split(system, config.db, system.val_split)
        require_classes(validation.class_names, dataset, str(validation.annotation_file))
    detector, optimizer = fresh_detector(config, len(dataset.class_names), device, ranks)
    snapshots = SnapshotWriter(system.keep)
    return Run(config, dataset, validation, detector, optimizer, device, start, ranks, snapshots)
