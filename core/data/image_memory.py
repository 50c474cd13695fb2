"""The memory of a batch's images: shared between processes, and used for one batch after another.

Fresh memory is slow: the system clears it page by page as it is touched, which was a quarter of a
worker's time. So every piece of memory ends with a byte that says whether a batch lies in it. The
process that makes batches sets it; the one that used a batch clears it, once nothing holds the
images any more.
"""

import math
import os
import weakref

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from ..structures import Batch

_FREE, _TAKEN = 0, 1
_SPARE = 2  # free pieces that are kept
_LARGEST = 2**25 - 2**16  # bytes


class ImageMemory:
    """Pieces of memory for images, of the process that makes batches."""

    def __init__(self) -> None:
        self._pieces: list[Tensor] = []

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """uint8 images of any content, in memory that nothing else uses until it is given back."""
        needed = math.prod(shape) + 1
        taken = [piece for piece in self._pieces if piece[-1] == _TAKEN]
        free = [piece for piece in self._pieces if piece[-1] != _TAKEN and len(piece) >= needed]
        piece = free.pop(0) if free else _new_piece(needed)
        piece[-1] = _TAKEN
        self._pieces = [*taken, piece, *free[:_SPARE]]  # the next time, that used last comes first
        return piece[: needed - 1].view(shape)


def give_back(images: Tensor) -> None:
    """Ends the use of images from :meth:`ImageMemory.take` that were not handed over."""
    _piece(images)[-1] = _FREE


def hand_over(batch: Batch) -> "Batch | Parcel":
    """A batch, its images from :meth:`ImageMemory.take`, for the process that will use it.

    Returns:
        the batch, which gives its memory back by itself; in a worker a parcel that becomes it.
    """
    parcel = Parcel(batch)
    return parcel if get_worker_info() else parcel.open()


class Parcel:
    """A batch on its way from a worker: pickled here, it is unpickled as a :class:`Batch`.

    The images travel as a handle of their shared memory, all else by value: a handle costs a
    connection between the processes, more than small tensors are worth.
    """

    def __init__(self, batch: Batch) -> None:
        self.piece, self.shape = _piece(batch.images), tuple(batch.images.shape)
        self.rest = {
            name: tensor.numpy()
            for name, tensor in vars(batch).items()
            if tensor is not None and name != "images"
        }

    def __reduce__(self) -> tuple:
        return _unpacked, (self.piece, self.shape, self.rest)

    def open(self) -> Batch:
        """The batch, which gives its memory back once nothing holds its images."""
        return _unpacked(self.piece, self.shape, self.rest)


def _unpacked(piece: Tensor, shape: tuple[int, ...], rest: dict[str, np.ndarray]) -> Batch:
    # Every tensor of these images, also a view, holds this array: it goes with the last of them.
    array = piece.numpy()
    weakref.finalize(array, _release, piece, os.getpid()).atexit = False
    images = torch.from_numpy(array)[: math.prod(shape)].view(shape)
    return Batch(images=images, **{name: torch.from_numpy(value) for name, value in rest.items()})


def _release(piece: Tensor, process: int) -> None:
    if os.getpid() == process:  # a forked process drops what its parent may still hold
        piece[-1] = _FREE


def shared(image: np.ndarray) -> Tensor:
    """A copy of an image, in a worker such that the process that it goes to can map it.

    Args:
        image: uint8, of any shape.
    """
    piece = _new_piece(max(1, image.size))
    copy = piece[: image.size].view(image.shape)
    copy.numpy()[...] = image
    return copy


def keep_freed_memory() -> None:
    """Has the allocator keep the memory of pictures that are done with, for those to come.

    glibc returns large blocks to the system at once; how large is large, it learns from what was
    freed before. 32 MB is the most that it learns, and none of it is touched.
    """
    np.empty(_LARGEST, np.uint8)


def _piece(images: Tensor) -> Tensor:
    """The whole memory that images lie in: uint8 [bytes], the mark last."""
    return torch.empty(0, dtype=torch.uint8).set_(images.untyped_storage())


def _new_piece(size: int) -> Tensor:
    """uint8 [size], in a worker such that the training process can map it instead of a copy."""
    if get_worker_info() is None:
        return torch.empty(size, dtype=torch.uint8)
    if not hasattr(os, "memfd_create"):
        return torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(size))
    # Not in /dev/shm, to which containers give 64 MB by default: a file without a name, in memory.
    file = os.memfd_create("images")
    try:
        os.ftruncate(file, size)
        storage = torch.UntypedStorage._new_shared_fd_cpu(file, size)  # type: ignore[attr-defined]
    finally:
        os.close(file)
    return torch.empty(0, dtype=torch.uint8).set_(storage)
