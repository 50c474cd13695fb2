"""Batches from worker processes: an endless stream that can start anywhere and repeats exactly.

A sample is a pure function of (seed, epoch, index), and a batch of its number in the stream. So
batches are the same for any number of workers, and a resumed run continues where it stopped without
making the batches before.
"""

import gc
import itertools
import os
import signal
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
from .image_memory import (
    BatchMessage,
    ImageMemory,
    keep_freed_memory,
    release,
    release_after_use,
)
from .images import Unreadable, read_image
from .samples import Labelled, SampleFunction
from .unreadable import max_unreadable

Position = tuple[int, int]  # epoch, number of the image in its dataset
Item = tuple[Sample, int, list[int]]

LOST_WORKER = "DataLoader worker (pid"  # beginning of PyTorch's error

# Parts of PyTorch's error when the system may have ended a worker because memory ran out.
_OUT_OF_MEMORY = ("Killed", "Bus error", "exited unexpectedly")
_MEMORY_HINT = " If nobody ended it, memory ran out: lower system.workers or system.prefetch_size"


class TrainingImages(Dataset[Item]):
    """The images of a dataset as samples, by (epoch, index).

    Args:
        dataset: images with their boxes and labels.
        sample: makes a sample from image, boxes, labels and a generator.
        seed: seed of each sample's generator; None for samples without augmentation.
        mosaic: fraction of the samples that are made of four images: ``sample`` gets three more of
            them as ``others``, lists of image, boxes and labels.
    """

    def __init__(
        self,
        dataset: CocoDetection,
        sample: SampleFunction,
        seed: int | None = None,
        mosaic: float = 0.0,
    ) -> None:
        self.dataset, self.sample, self.seed, self.mosaic = dataset, sample, seed, mosaic
        self.memory = ImageMemory()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: Position) -> Item:
        """Makes one sample.

        The next image of the dataset takes the place of one that cannot be decoded. If more images
        in a row are unreadable than a run tolerates, the sample is black and empty; their numbers
        in the batch then end the run (:class:`core.data.unreadable.UnreadableImages`).

        Returns:
            The sample, the number of its image, and the numbers of the images that were skipped.
        """
        epoch, index = position
        rng = None if self.seed is None else np.random.default_rng((self.seed, epoch, index))
        labelled, number, unreadable = self._read(index)
        if rng is None or not self.mosaic or rng.random() >= self.mosaic:
            return self.sample(*labelled, rng), number, unreadable
        others = []
        for other in rng.integers(len(self), size=3):
            part, _, skipped = self._read(int(other))
            others.append(part)
            unreadable += skipped
        return self.sample(*labelled, rng, others=others), number, unreadable

    def _read(self, index: int) -> tuple[Labelled, int, list[int]]:
        """Reads an image, or the next one that can be decoded.

        Returns:
            Image, boxes and labels; the number of the image, and those of the skipped ones.
        """
        unreadable: list[int] = []
        for step in range(min(max(max_unreadable(len(self)) + 1, 100), len(self))):
            number = (index + step) % len(self)
            image = read_image(self.dataset.image_path(number))
            if not isinstance(image, Unreadable):
                boxes, labels = self.dataset.boxes(number), self.dataset.labels(number)
                return (image, boxes, labels), number, unreadable
            unreadable.append(number)
        nothing = np.zeros((64, 64, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, int)
        return nothing, index, unreadable

    def __getitems__(self, positions: list[Position]) -> Batch | BatchMessage:
        """Makes a batch; the loader calls this in place of ``self[position]`` one by one."""
        samples: list[Sample] = []
        numbers: list[int] = []
        unreadable: list[int] = []
        images = torch.empty((len(positions), 3, 0, 0), dtype=torch.uint8)
        for row, position in enumerate(positions):
            sample, number, skipped = self[position]
            images = self._with_room(images, row, sample.image.shape)
            # Copied into the batch at once, so that the next sample reuses this one's memory:
            # new memory costs a worker more time than filling it.
            _, height, width = sample.image.shape
            target = images.numpy()[row]
            cv2.split(sample.image.transpose(1, 2, 0), list(target[:, :height, :width]))
            target[:, height:] = 0
            target[:, :, width:] = 0
            samples.append(replace(sample, image=target[:, :height, :width]))
            numbers.append(number)
            unreadable += skipped
        return release_after_use(collate(samples, numbers, unreadable, images))

    def _with_room(self, images: Tensor, filled: int, shape: tuple[int, ...]) -> Tensor:
        """Returns ``images``, or a larger copy if an image of ``shape`` does not fit into a row.

        Args:
            images: uint8 [B, 3, height, width].
            filled: number of rows to copy; the copy pads them with 0.
            shape: (3, height, width).
        """
        height, width = images.shape[2:]
        if shape[1] <= height and shape[2] <= width:
            return images
        larger_shape = len(images), 3, max(height, shape[1]), max(width, shape[2])
        larger = self.memory.allocate(larger_shape)
        if filled:
            larger[:filled] = 0
            larger[:filled, :, :height, :width] = images[:filled]
            release(images)
        return larger


class ShuffledStream(Sampler[list[Position]]):
    """Batches of positions: one permutation of the images after the other, drawn from the seed.

    Args:
        num_images: number of images N.
        batch_size: positions in a batch, which may reach into the next epoch.
        seed: seed of the permutations; None keeps the order of the images in every epoch.
        start: number of the first batch.
        rows: positions of every batch to yield, all by default. Each of several ranks makes its
            rows of the same batch.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        seed: int | None,
        start: int,
        rows: slice | None = None,
    ) -> None:
        self.num_images, self.batch_size, self.seed = num_images, batch_size, seed
        self.start = start
        self.rows = slice(None) if rows is None else rows

    def __iter__(self) -> Iterator[list[Position]]:
        epoch, offset = divmod(self.start * self.batch_size, self.num_images)
        positions = itertools.chain(
            ((epoch, int(index)) for index in self.order(epoch)[offset:]),
            ((later, int(i)) for later in itertools.count(epoch + 1) for i in self.order(later)),
        )
        while True:
            yield list(itertools.islice(positions, self.batch_size))[self.rows]

    def order(self, epoch: int) -> np.ndarray:
        """Returns the numbers of the images in the order of an epoch: int64 [N]."""
        if self.seed is None:
            return np.arange(self.num_images)
        # No image has the number N, so no sample has the same random numbers as the order.
        seed = (self.seed, epoch, self.num_images)
        return np.random.default_rng(seed).permutation(self.num_images)


def batch_loader(
    dataset: CocoDetection,
    sample: SampleFunction,
    *,
    batch_size: int,
    seed: int | None,
    workers: int,
    prefetch: int,
    start_iteration: int = 0,
    rows: slice | None = None,
    pin_memory: bool = False,
    mosaic: float = 0.0,
) -> DataLoader[Item]:
    """Makes an endless stream of batches.

    Args:
        dataset: images with their boxes and labels.
        sample: makes a sample, as in :class:`TrainingImages`; picklable if workers are spawned.
        batch_size: images in a batch, of all ranks together.
        seed: seed of order and augmentation; None: no augmentation, in the dataset's order.
        workers: number of processes that make batches; 0 to make them in this one.
        prefetch: about how many batches are prepared ahead.
        start_iteration: number of the first batch, counted from 0.
        rows: the rows of every batch that this process makes, all by default.
        pin_memory: put batches into page-locked memory.
        mosaic: fraction of the samples that are made of four images, as in
            :class:`TrainingImages`.

    Returns:
        A loader of :class:`core.structures.Batch`; every ``iter`` of it starts at
        ``start_iteration``. If a worker ends, for any reason, it raises RuntimeError within
        seconds.
    """
    if not workers:
        keep_freed_memory()
    return DataLoader(
        TrainingImages(dataset, sample, seed, mosaic),
        batch_sampler=ShuffledStream(len(dataset), batch_size, seed, start_iteration, rows),
        num_workers=workers,
        collate_fn=_unchanged,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # otherwise it would draw from the global one
        prefetch_factor=-(-prefetch // workers) if workers else None,
        persistent_workers=workers > 0,
    )


def lost_worker_hint(error: str) -> str:
    """Returns a hint to append to PyTorch's error; empty if memory is not the likely cause."""
    return _MEMORY_HINT if any(name in error for name in _OUT_OF_MEMORY) else ""


def _unchanged(batch: Any) -> Any:
    return batch


def _start_worker(worker: int) -> None:
    """Limits a worker to one thread, and protects it from signals to the run's process group."""
    cv2.setNumThreads(0)
    keep_freed_memory()
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    else:  # Windows, which sends Ctrl-C to every process of the console
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()  # a collection would write to, and so copy, all objects inherited from the run
