"""The folder of a run, with its snapshots and its log, and the writer of snapshots.

``<cache_dir>/nnet/<name>/`` holds the snapshots of a run (:mod:`core.checkpoint.snapshot`), the
weights with its highest AP as ``<name>_best.pkl``, and its log.
"""

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from ..config.errors import UserError
from ..torch_compat import map_tensors
from . import snapshot as checkpoint
from .files import remove_unfinished
from .snapshot import Meta, corruption, iterations_in, read_meta, training_path

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """A start of a run, or its resumption.

    Attributes:
        number: among those of the run's folder; 0: unknown, of before they were counted.
        iteration: number of steps before it.
    """

    number: int = 0
    iteration: int = 0


@dataclass(frozen=True)
class RunDirectory:
    """The folder of a run's snapshots and log; it need not exist.

    Attributes:
        cache_dir: folder of all runs, ``system.cache_dir``.
        name: name of the run's config.
    """

    cache_dir: str | Path
    name: str

    @property
    def path(self) -> Path:
        """Path of the folder, which exists once something was written."""
        return Path(self.cache_dir) / "nnet" / self.name

    def snapshot(self, iteration: int) -> Path:
        """Path of the weights of an iteration."""
        return self.path / f"{self.name}_{iteration}.pkl"

    @property
    def best(self) -> Path:
        """Path of the weights with the highest AP."""
        return self.path / f"{self.name}_best.pkl"

    @property
    def log(self) -> Path:
        """Path of the log, a JSON object a line."""
        return self.path / "log.jsonl"

    def iterations(self) -> list[int]:
        """Iterations of the snapshots, ascending."""
        return iterations_in(self.path, self.name)

    def in_order(self) -> list[int]:
        """Iterations of the snapshots, in the order in which they were written.

        Those that an earlier start of the run left come before those of a later one, whatever their
        iterations.
        """
        starts = self._starts()
        return sorted(starts, key=lambda iteration: (starts[iteration].number, iteration))

    def next_start(self, iteration: int) -> Start:
        """Number of a start of the run that begins after ``iteration`` steps."""
        last = max((start.number for start in self._starts().values()), default=0)
        return Start(last + 1, iteration)

    def newest(self) -> tuple[Path, int] | None:
        """The snapshot that was written last, and its iteration; None if there is none."""
        iterations = self.in_order()
        return (self.snapshot(iterations[-1]), iterations[-1]) if iterations else None

    def is_left_over(self, meta: Meta) -> bool:
        """True if weights are of an earlier run: a later one began before their iteration."""
        return any(
            start.number > meta.start_number and start.iteration < meta.iteration
            for start in self._starts().values()
        )

    def latest_valid(self) -> int | None:
        """Iteration of the newest snapshot that is valid; None if there is no snapshot.

        Logs a line for each newer snapshot that was cut short or altered.

        Raises:
            UserError: there are snapshots, and none of them is valid.
        """
        iterations = self.in_order()
        for iteration in reversed(iterations):
            path = self.snapshot(iteration)
            problem = corruption(path)
            if problem is None:
                return iteration
            logger.warning("%s is skipped: %s", path, problem)
        if iterations:
            raise UserError(
                f"no snapshot in {self.path} is valid; move them away to start anew, or start from "
                "the weights of one with --weights FILE"
            )
        logger.info("there is no snapshot in %s to resume from: starting from step 1", self.path)
        return None

    def _starts(self) -> dict[int, Start]:
        """The start that wrote each snapshot, by its iteration."""
        starts = {}
        for iteration in self.iterations():
            try:
                meta = read_meta(self.snapshot(iteration))
            except UserError:  # raised again where the snapshot is loaded
                meta = None
            starts[iteration] = Start()
            if meta is not None:
                starts[iteration] = Start(meta.start_number, meta.start_iteration)
        return starts

    def remove_unfinished(self) -> None:
        """Removes the temporary files that processes left when they were killed."""
        remove_unfinished(self.path)

    def forget_training_states(self, iteration: int, keep: int) -> None:
        """Deletes old training states, but not those of the ``keep`` newest snapshots.

        Args:
            iteration: snapshots after it, which an earlier run left, are neither counted nor
                deleted.
            keep: number of snapshots that keep their training state.
        """
        states = [training_path(self.snapshot(x)) for x in self.iterations() if x <= iteration]
        for state in [state for state in states if state.is_file()][:-keep]:
            state.unlink(missing_ok=True)


class SnapshotWriter:
    """Writes a run's snapshots in a thread; a context manager that waits for the last of them.

    If a snapshot cannot be written, an error is logged, and the snapshot before stays as it is.

    Args:
        directory: folder of the run.
        keep: number of newest snapshots that keep their training state.
        saved: iteration of the snapshot from which the run resumes; None: it starts anew.

    Attributes:
        saved: iteration of the newest snapshot that was written; None before the first.
        failed: True if the last one could not be written.
    """

    def __init__(self, directory: RunDirectory, keep: int, saved: int | None = None) -> None:
        self.directory, self.keep = directory, keep
        self.saved, self.failed = saved, False
        self._start = directory.next_start(saved or 0)
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "SnapshotWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not KeyboardInterrupt:
            self.wait()

    def write(
        self,
        network: nn.Module,
        state: Mapping[str, Any],
        meta: Meta,
        averages: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Starts to write a snapshot, once the one before is written.

        The arguments are copied before this returns.

        Args:
            network: module whose weights are written.
            state: state of the training: tensors and plain Python values.
            meta: description of the snapshot, with its iteration.
            averages: state dict of the averaged weights; None: there are none.
        """
        self.wait()
        weights, state, averages = map_tensors(
            lambda tensor: tensor.detach().to("cpu", copy=True),
            (network.state_dict(), dict(state), averages),
        )
        given = (weights, state, self.with_start(meta), averages)
        self._thread = threading.Thread(target=self._write, args=given, daemon=True)
        self._thread.start()

    def with_start(self, meta: Meta) -> Meta:
        """Adds this start of the run to the description of weights."""
        start = self._start
        return replace(meta, start_number=start.number, start_iteration=start.iteration)

    def wait(self, seconds: float | None = None) -> bool:
        """Waits at most ``seconds`` until everything is written; returns True if it is."""
        if self._thread is not None:
            self._thread.join(seconds)
            if self._thread.is_alive():
                return False
            self._thread = None
        return True

    def _write(
        self,
        weights: dict[str, Tensor],
        state: dict[str, Any],
        meta: Meta,
        averages: dict[str, Tensor] | None,
    ) -> None:
        path = self.directory.snapshot(meta.iteration)
        try:
            checkpoint.save_snapshot(path, weights, state, meta, averages)
        except Exception as error:
            self.failed = True
            logger.error(
                "step %d was not saved (%s: %s) in %s; the newest snapshot is that of step %s",
                meta.iteration,
                type(error).__name__,
                error,
                path.parent,
                self.saved,
            )
            return
        self.saved, self.failed = meta.iteration, False
        logger.info("saved %s", path)
        self.directory.forget_training_states(meta.iteration, self.keep)
