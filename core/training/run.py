"""A training run: what it is made of, and how it is put together from a config."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ..checkpoint.run_directory import RunDirectory, SnapshotWriter
from ..checkpoint.snapshot import Meta, require_snapshot, versions
from ..config.errors import UserError
from ..config.loading import Config
from ..data.coco import CocoDetection
from ..data.loader import batch_loader
from ..data.splits import open_split
from ..distributed import ONE_PROCESS, Ranks
from ..structures import Batch
from .build import TrainingState, build_for_training
from .chunks import chunk_sizes, rank_chunks
from .optimizer import load_optimizer_state_
from .weights import load_snapshot_, load_start_weights_, require_classes, start_average

_POLL = 1.0  # seconds between two checks for a snapshot that is being written


@dataclass
class TrainingRun(TrainingState):
    """A run that is ready to start.

    Attributes:
        dataset: the training split.
        validation_dataset: the validation split; None when ``val_iter`` and ``eval_iter`` are 0.
        start: number of steps that trained the weights.
        snapshots: writer of the snapshots, on the main process.
    """

    dataset: CocoDetection
    validation_dataset: CocoDetection | None
    start: int
    snapshots: SnapshotWriter

    @property
    def directory(self) -> RunDirectory:
        """Folder of the snapshots and the log."""
        return self.snapshots.directory

    def batches(self) -> Iterable[Batch]:
        """Makes a loader of this rank's rows of the training batches from step ``start + 1``."""
        system, db = self.config.system, self.config.db
        return batch_loader(
            self.dataset,
            self.detector.sample,
            batch_size=system.batch_size,
            seed=system.seed,
            workers=system.workers,
            prefetch=system.prefetch_size,
            start_iteration=self.start,
            rows=self.chunks.rows,
            pin_memory=self.device.type == "cuda",
            mosaic=db.mosaic if db.data_aug else 0.0,
        )

    def validation_batches(self) -> Iterable[Batch]:
        """Makes a loader of this rank's rows of the validation batches, from the next one on."""
        system = self.config.system
        assert self.validation_dataset is not None
        return batch_loader(
            self.validation_dataset,
            self.detector.sample,
            batch_size=system.batch_size,
            seed=None,
            workers=min(system.workers, 1),
            prefetch=1,
            start_iteration=self.start // system.val_iter,
            rows=self.chunks.rows,
            pin_memory=self.device.type == "cuda",
        )

    def save(self, iteration: int) -> None:
        """Starts to save a snapshot of the run as it is after ``iteration`` steps.

        While the snapshot before is still being written, on a slow disk, all ranks wait in one
        step's collective after another, so that the loss of a rank is noticed as in any step.
        """
        while any(self.ranks.sum([not self.snapshots.wait(_POLL)])):
            pass
        if not self.ranks.is_main:
            return
        config, system = self.config, self.config.system
        meta = Meta(
            name=config.name,
            iteration=iteration,
            class_names=self.dataset.class_names,
            config=config.as_dict(),
            versions=versions(),
            averaged_steps=None if self.average is None else self.average.steps,
        )
        state = {
            "iteration": iteration,
            "batch_size": system.batch_size,
            "chunks": list(chunk_sizes(system, self.ranks.world_size)),
            "seed": system.seed,
            "opt_algo": system.opt_algo,
            "backbone_lr": system.backbone_lr,
            "optimizer": self.optimizer.state_dict(),
        }
        averages = None if self.average is None else self.average.state_dict()
        self.snapshots.write(self.detector.network, state, meta, averages)

    def finish(self) -> None:
        """Waits until all snapshots are written. All ranks call this together."""
        self.snapshots.wait()
        self.ranks.barrier()


def prepare(
    config: Config,
    device: torch.device,
    *,
    iteration: int | None = None,
    weights: str | None = None,
    ranks: Ranks = ONE_PROCESS,
    verify: bool = True,
) -> TrainingRun:
    """Opens the data, builds the detector and gives it the weights to start from.

    Initial weights are drawn from ``system.seed``, so two runs of a config start from the same. All
    ranks call this together; the main process alone reads weights, and broadcasts them.

    Args:
        config: settings of the run.
        device: device to train on.
        iteration: resume from the snapshot of this iteration.
        weights: file to start from instead, of any number of classes; ``system.pretrain`` by
            default.
        ranks: this process among those that train together.
        verify: compare the snapshot with its checksums; not needed if that was just done.

    Raises:
        UserError: the data or the snapshot is missing or unusable, or the model does not exist.
    """
    system = config.system
    directory = RunDirectory(system.cache_dir, config.name)
    snapshot = None if iteration is None else directory.snapshot(iteration)
    with ranks.agree_on_errors():
        if ranks.is_main:
            directory.remove_unfinished()
            if snapshot is not None:
                require_snapshot(snapshot)
        chunks = chunk_sizes(system, ranks.world_size)
        rank_chunks(system, ranks)  # an error if they do not fit
        dataset, validation_dataset = _open_datasets(config)
        state = build_for_training(config, len(dataset.class_names), device, ranks)
    optimizer_state = None
    with ranks.agree_on_errors():
        if ranks.is_main and snapshot is not None:
            optimizer_state = load_snapshot_(
                state.detector, snapshot, dataset, system, chunks, verify
            )
        elif ranks.is_main:
            load_start_weights_(state.detector, weights or system.pretrain)
        if ranks.is_main and system.ema is not None:
            state.average = start_average(state.detector.network, system.ema, snapshot)
    optimizer_state = ranks.broadcast(optimizer_state)
    if optimizer_state is not None:
        load_optimizer_state_(state.optimizer, optimizer_state)
    ranks.broadcast_(state.detector.network.buffers())  # frozen batch norms compute with them
    state.wrap_((iteration or 0) + 1)
    return TrainingRun(
        **vars(state),
        dataset=dataset,
        validation_dataset=validation_dataset,
        start=iteration or 0,
        snapshots=SnapshotWriter(directory, system.keep, saved=iteration),
    )


def _open_datasets(config: Config) -> tuple[CocoDetection, CocoDetection | None]:
    """Opens the training split and, if the run needs it, the validation split."""
    system = config.system
    dataset = open_split(system, config.db, system.train_split)
    if not dataset.box_counts().any():
        raise UserError(
            f"{dataset.annotation_file} has no boxes to train on; is {system.train_split!r} the "
            "right system.train_split? (`cornerkit check CONFIG` says what it holds)"
        )
    if not system.val_iter and not system.eval_iter:
        return dataset, None
    validation = open_split(system, config.db, system.val_split)
    require_classes(validation.class_names, dataset, str(validation.annotation_file))
    return dataset, validation
