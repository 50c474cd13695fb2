"""Batches that all ranks take together: if one of them must end, all end, at the same step."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain

import torch

from ..config.errors import UserError
from ..data.coco import CocoDetection
from ..data.loader import LOST_WORKER, lost_worker_hint
from ..data.unreadable import UnreadableImages
from ..structures import Batch
from .ranks import Ranks
from .signals import Signals

_DYING = 0.1  # seconds; a worker closes its pipes a moment before its death is known


class Stopped(RuntimeError):
    """Training ended early: the message says why; every complete step before it was saved."""


class Stream:
    """Batches that all ranks take together, each its rows of the same batch.

    Args:
        batches: this rank's batches, without end.
        dataset: split that they are made from.
        signals: signals that may ask for the end.
        ranks: this process among those that train together.
    """

    def __init__(
        self, batches: Iterable[Batch], dataset: CocoDetection, signals: Signals, ranks: Ranks
    ) -> None:
        self._batches, self._signals, self._ranks = iter(batches), signals, ranks
        self._unreadable = UnreadableImages(dataset, warn=ranks.is_main)
        self._started = False

    def take(self) -> Batch:
        """Takes the next batch, unless a signal asked for the end.

        A step's collective; the first call is a patient one, as the loaders' workers start up.

        Returns:
            This rank's batch; its list of unreadable images is that of all ranks.

        Raises:
            Stopped: a signal was received, or a loader failed, on any rank.
            UserError: a loader raised it, on any rank; or too many images are unreadable.
        """
        batch, problem = None, None
        try:
            batch = _take(self._batches, self._signals)
        except (Stopped, UserError) as error:
            problem = error
        if not self._started:
            self._ranks.barrier()
            self._started = True
        batch = _agree(batch, problem, self._ranks)
        self._unreadable.note(batch)
        return batch


def _agree(batch: Batch | None, problem: Stopped | UserError | None, ranks: Ranks) -> Batch:
    """Returns this rank's batch if every rank has one; else raises the lowest rank's problem."""
    unreadable = 0 if batch is None else len(batch.unreadable)
    problems, unreadable = ranks.sum([problem is not None, unreadable])
    if problems:
        raise _lowest_problem(problem, ranks)
    assert batch is not None
    if unreadable and ranks.world_size > 1:
        every = ranks.gather(batch.unreadable.tolist())
        numbers = torch.tensor(list(chain.from_iterable(every)), dtype=torch.int64)
        batch = replace(batch, unreadable=numbers)
    return batch


def _lowest_problem(own: Stopped | UserError | None, ranks: Ranks) -> Stopped | UserError:
    """Returns the problem of the lowest rank that has one; called by all ranks together."""
    every = ranks.gather(None if own is None else (type(own), str(own)))
    rank, (kind, text) = next((rank, found) for rank, found in enumerate(every) if found)
    if own is not None and rank == ranks.rank:
        return own
    problem: Stopped | UserError = kind(f"rank {rank}: {text}")
    return problem


def _take(batches: Iterator[Batch], signals: Signals) -> Batch:
    """Takes the next batch; checks for signals before and after."""
    death, failure, batch = signals.worker_death(), None, None
    if death is None and not signals.asked:
        try:
            batch = next(batches)
        except UserError:
            raise
        except Exception as error:
            death, failure = _death_behind(error, signals), error
    if signals.asked:  # sent to all processes, the signal ended the workers too
        raise Stopped(f"{signals.asked} was received")
    if death is not None:
        raise Stopped(f"the loader failed: {death}{lost_worker_hint(death)}")
    if batch is None:
        raise Stopped(f"the loader failed: {failure}") from failure
    return batch


def _death_behind(error: Exception, signals: Signals) -> str | None:
    """Returns the death of a worker that made the loader fail with ``error``; None if none did."""
    by_death = str(error).startswith(LOST_WORKER)
    for _ in range(20 if by_death else 2):
        time.sleep(_DYING)
        death = signals.worker_death()
        if death is not None:
            return death
    return str(error).strip() if by_death else None
