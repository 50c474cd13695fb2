"""The snapshots of a run: which is whole, which keep the state of the training, who writes them."""

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from ..config.errors import UserError
from . import snapshot as checkpoint
from .files import sha256_of
from .snapshot import Meta, read_meta, snapshot_path, training_path

logger = logging.getLogger(__name__)


def latest_valid(cache_dir: str | Path, name: str) -> int | None:
    """The newest iteration of a run that can be resumed as it was saved; None: none was saved.

    Newer ones, which were cut short or altered, are told in a line each.

    Raises:
        UserError: there are snapshots, and none of them is whole.
    """
    iteration = None
    for iteration in reversed(checkpoint.iterations(cache_dir, name)):
        path = snapshot_path(cache_dir, name, iteration)
        problem = damage(path)
        if problem is None:
            return iteration
        logger.warning("%s is passed over: %s", path, problem)
    folder = checkpoint.run_folder(cache_dir, name)
    if iteration is not None:
        raise UserError(
            f"no snapshot in {folder} is whole; move them away to start anew, or start from the "
            "weights of one with --weights FILE"
        )
    logger.info("there is no snapshot in %s to resume from: starting from step 1", folder)
    return None


def damage(path: Path) -> str | None:
    """What keeps the snapshot ``path`` from being resumed as it was saved; None: nothing does."""
    try:
        meta = read_meta(path)
        if meta is None:
            return "nothing beside it says what it is of"
        for file in (path, training_path(path)):
            digest = meta.sha256.get(file.name.removeprefix(path.stem))
            if digest is None:
                return f"it was saved without a checksum of {file.name}"
            if not file.is_file():
                return f"{file.name} is not there any more"
            if sha256_of(file) != digest:
                return f"{file.name} was cut short or altered"
    except (UserError, OSError) as error:
        return str(error)
    return None


def forget_training_states(path: Path, keep: int) -> None:
    """Deletes a run's training states but those of the ``keep`` newest snapshots up to ``path``.

    What a later snapshot has, left by an earlier run, stays.
    """
    name, _, newest = path.stem.rpartition("_")
    cache_dir = path.parent.parent.parent
    states = [
        training_path(snapshot_path(cache_dir, name, iteration))
        for iteration in checkpoint.iterations(cache_dir, name)
        if iteration <= int(newest)
    ]
    for state in [state for state in states if state.is_file()][:-keep]:
        state.unlink(missing_ok=True)


class SnapshotWriter:
    """Writes a run's snapshots while it goes on; within a context that waits for the last of them.

    A snapshot that cannot be written is told in a line, and the one before stays as it is.

    Args:
        keep: newest snapshots that keep their training state.
        saved: iteration of the newest snapshot of the run, if there is one already.

    Attributes:
        saved: iteration of the newest snapshot that was written; None before the first.
        failed: whether the last one could not be written.
    """

    def __init__(self, keep: int, saved: int | None = None) -> None:
        self.keep, self.saved, self.failed = keep, saved, False
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

    def write(self, path: Path, network: nn.Module, state: Mapping[str, Any], meta: Meta) -> None:
        """Starts to write a snapshot, once the one before is written; arguments as they are now.

        The arguments are those of :func:`core.checkpoint.snapshot.save_snapshot`.
        """
        self.wait()
        copies = _copied(network.state_dict()), _copied(state)
        self._thread = threading.Thread(target=self._write, args=(path, *copies, meta), daemon=True)
        self._thread.start()

    def wait(self, seconds: float | None = None) -> bool:
        """Waits until all is written, but no longer than so many seconds; gives whether it is."""
        if self._thread is not None:
            self._thread.join(seconds)
            if self._thread.is_alive():
                return False
            self._thread = None
        return True

    def _write(
        self, path: Path, weights: dict[str, Tensor], state: dict[str, Any], meta: Meta
    ) -> None:
        try:
            checkpoint.save_snapshot(path, weights, state, meta)
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
        forget_training_states(path, self.keep)


def _copied(value: Any) -> Any:
    """A value with copies of all its tensors, on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_copied, value))
    return value
