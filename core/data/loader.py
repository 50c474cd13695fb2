"""Batches from worker processes: an endless stream that can start anywhere and repeats exactly.

A sample is a pure function of (seed, epoch, index), and a batch one of its number in the stream.
So batches are the same for any number of workers, and a resumed run goes on where it stopped
without replaying anything.
"""

import gc
import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..structures import Batch, Sample, collate
from .coco import CocoDetection
from .image_memory import ImageMemory, Parcel, give_back, hand_over, keep_freed_memory
from .images import read_image
from .samples import SampleFunction
from .unreadable import most_tolerated

Position = tuple[int, int]  # epoch, number of the picture in its dataset
Item = tuple[Sample, int, list[int]]

LOST_WORKER = "DataLoader worker (pid"  # what PyTorch's error begins with

# What PyTorch's error names when the system may have ended a worker because memory ran out.
_OUT_OF_MEMORY = ("Killed", "Bus error", "exited unexpectedly")
_MEMORY_HINT = " If nobody ended it, memory ran out: lower system.workers or system.prefetch_size"


class TrainingImages(Dataset[Item]):
    """The pictures of a dataset as samples, by (epoch, index).

    Args:
        dataset: where the pictures, boxes and labels are.
        sample: makes a sample from image, boxes, labels and a generator.
        seed: of the generator that a sample is drawn with; None: samples are not augmented.
    """

    def __init__(
        self, dataset: CocoDetection, sample: SampleFunction, seed: int | None = None
    ) -> None:
        self.dataset, self.sample, self.seed = dataset, sample, seed
        self.memory = ImageMemory()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: Position) -> Item:
        """Makes one sample.

        A picture that cannot be decoded is replaced by the next one of the dataset. If more in a
        row are unreadable than a run tolerates, the sample is black and empty, and the batch's
        list of them ends the run (:class:`core.data.unreadable.UnreadableImages`).

        Returns:
            the sample, the number of the picture it shows, those of the pictures passed over.
        """
        epoch, index = position
        rng = None if self.seed is None else np.random.default_rng((self.seed, epoch, index))
        unreadable: list[int] = []
        for step in range(min(max(most_tolerated(len(self)) + 1, 100), len(self))):
            number = (index + step) % len(self)
            image = read_image(self.dataset.image_path(number))
            if image is not None:
                boxes, labels = self.dataset.boxes(number), self.dataset.labels(number)
                return self.sample(image, boxes, labels, rng), number, unreadable
            unreadable.append(number)
        nothing = np.zeros((64, 64, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, int)
        return self.sample(*nothing, rng), index, unreadable

    def __getitems__(self, positions: list[Position]) -> Batch | Parcel:
        """Makes a batch; the loader calls this in place of ``self[position]`` one by one."""
        samples: list[Sample] = []
        numbers: list[int] = []
        unreadable: list[int] = []
        images = torch.empty((len(positions), 3, 0, 0), dtype=torch.uint8)
        for row, position in enumerate(positions):
            sample, number, passed_over = self[position]
            images = self._with_room(images, row, sample.image.shape)
            # Written to its place at once, the sample's own copy is freed for the next one's use:
            # fresh memory costs a worker more time than filling it.
            _, height, width = sample.image.shape
            place = images.numpy()[row]
            cv2.split(sample.image.transpose(1, 2, 0), list(place[:, :height, :width]))
            place[:, height:] = 0
            place[:, :, width:] = 0
            samples.append(replace(sample, image=place[:, :height, :width]))
            numbers.append(number)
            unreadable += passed_over
        return hand_over(collate(samples, numbers, unreadable, images))

    def _with_room(self, images: Tensor, filled: int, shape: tuple[int, ...]) -> Tensor:
        """``images``, or where a picture of ``shape`` does not fit into their rows, larger ones.

        Args:
            images: uint8 [B, 3, height, width].
            filled: rows to copy; in the copy they are padded with 0.
            shape: (3, height, width).
        """
        height, width = images.shape[2:]
        if shape[1] <= height and shape[2] <= width:
            return images
        larger = self.memory.take((len(images), 3, max(height, shape[1]), max(width, shape[2])))
        if filled:
            larger[:filled] = 0
            larger[:filled, :, :height, :width] = images[:filled]
            give_back(images)
        return larger


class ShuffledStream(Sampler[list[Position]]):
    """Batches of positions: one permutation of the pictures after the other, drawn from the seed.

    Args:
        pictures: number of pictures N.
        batch_size: positions a batch; a batch may reach into the next epoch.
        seed: of the permutations; None: the pictures' own order in every epoch.
        start: number of the first batch.
        rows: which positions of every batch to give; None: all. Of several ranks each makes its
            rows of the one batch.
    """

    def __init__(
        self,
        pictures: int,
        batch_size: int,
        seed: int | None,
        start: int,
        rows: slice | None = None,
    ) -> None:
        self.pictures, self.batch_size, self.seed, self.start = pictures, batch_size, seed, start
        self.rows = slice(None) if rows is None else rows

    def __iter__(self) -> Iterator[list[Position]]:
        epoch, offset = divmod(self.start * self.batch_size, self.pictures)
        positions = itertools.chain(
            ((epoch, int(index)) for index in self.order(epoch)[offset:]),
            ((later, int(i)) for later in itertools.count(epoch + 1) for i in self.order(later)),
        )
        while True:
            yield list(itertools.islice(positions, self.batch_size))[self.rows]

    def order(self, epoch: int) -> np.ndarray:
        """The numbers of the pictures in the order of an epoch: int64 [N]."""
        if self.seed is None:
            return np.arange(self.pictures)
        # No sample has the number N, so no sample shares its random numbers with the order.
        return np.random.default_rng((self.seed, epoch, self.pictures)).permutation(self.pictures)


def training_loader(
    dataset: CocoDetection,
    sample: SampleFunction,
    *,
    batch_size: int,
    seed: int,
    workers: int,
    prefetch: int,
    start_iteration: int = 0,
    rows: slice | None = None,
    pin_memory: bool = False,
) -> DataLoader[Item]:
    """An endless stream of augmented batches in shuffled order.

    Args:
        dataset: where the pictures are.
        sample: see :class:`TrainingImages`; picklable where workers are spawned.
        batch_size: pictures a batch, of all ranks together.
        seed: of order and augmentation.
        workers: processes that make batches; 0: they are made where they are used.
        prefetch: about how many batches wait, ready or in work.
        start_iteration: number of the first batch, counted from 0.
        rows: those of every batch that this process makes, see :class:`ShuffledStream`.
        pin_memory: whether batches come in page-locked memory.

    Returns:
        a loader of :class:`core.structures.Batch`; every ``iter`` of it starts at
        ``start_iteration``. The end of a worker, by whatever cause, raises RuntimeError within
        seconds.
    """
    order = ShuffledStream(len(dataset), batch_size, seed, start_iteration, rows)
    pictures = TrainingImages(dataset, sample, seed)
    return _loader(pictures, order, workers, prefetch, pin_memory)


def validation_loader(
    dataset: CocoDetection,
    sample: SampleFunction,
    *,
    batch_size: int,
    workers: int,
    prefetch: int,
    start_iteration: int = 0,
    rows: slice | None = None,
    pin_memory: bool = False,
) -> DataLoader[Item]:
    """An endless stream of batches, not augmented, in the dataset's order over and over.

    The arguments are those of :func:`training_loader`.
    """
    order = ShuffledStream(len(dataset), batch_size, None, start_iteration, rows)
    pictures = TrainingImages(dataset, sample)
    return _loader(pictures, order, workers, prefetch, pin_memory)


def lost_worker_hint(error: str) -> str:
    """Text to append to PyTorch's message about a lost worker; empty if memory is not the cause."""
    return _MEMORY_HINT if any(name in error for name in _OUT_OF_MEMORY) else ""


def _loader(
    pictures: TrainingImages, order: ShuffledStream, workers: int, prefetch: int, pin_memory: bool
) -> DataLoader[Item]:
    if not workers:
        keep_freed_memory()
    return DataLoader(
        pictures,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # or it would draw from the global one
        prefetch_factor=-(-prefetch // workers) if workers else None,
        persistent_workers=workers > 0,
    )


def _as_it_is(batch: Any) -> Any:
    return batch


def _start_worker(worker: int) -> None:
    """One thread a worker, and no part in Ctrl-C: signals to the run's group are for the run."""
    cv2.setNumThreads(0)
    keep_freed_memory()
    os.setpgid(0, 0)
    gc.freeze()  # a collection would write to, and so copy, all objects that the run shares with it
