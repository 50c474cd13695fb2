"""Memory for the images of a batch: shared between processes, and reused for later batches.

New memory is slow: the system clears it page by page when it is first used, which took a quarter of
a worker's time. So buffers are reused. The last byte of each marks it as in use or free: the
process that makes batches sets it, and the process that used a batch clears it as soon as nothing
refers to the images any more.
"""

import math
import os
import weakref

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from ..structures import Batch
from ..torch_compat import shared_bytes

_FREE, _IN_USE = 0, 1
_MAX_FREE = 2  # free buffers that are kept
_LARGEST = 2**25 - 2**16  # bytes


class ImageMemory:
    """Buffers for images, owned by the process that makes batches."""

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []

    def allocate(self, shape: tuple[int, ...]) -> Tensor:
        """Returns uint8 images of undefined content in a buffer that nothing else uses."""
        needed = math.prod(shape) + 1
        in_use = [buffer for buffer in self._buffers if buffer[-1] == _IN_USE]
        rest = [buffer for buffer in self._buffers if buffer[-1] != _IN_USE]
        free = [buffer for buffer in rest if len(buffer) >= needed]
        buffer = free.pop(0) if free else _new_buffer(needed)
        buffer[-1] = _IN_USE
        self._buffers = [*in_use, buffer, *free[:_MAX_FREE]]  # most recently used first
        return buffer[: needed - 1].view(shape)


def release(images: Tensor) -> None:
    """Marks the buffer of images from :meth:`ImageMemory.allocate` as free."""
    _buffer_of(images)[-1] = _FREE


def release_after_use(batch: Batch) -> "Batch | BatchMessage":
    """Prepares a batch for the process that uses it, which releases the buffer when it is done.

    Args:
        batch: a batch whose images are from :meth:`ImageMemory.allocate`.

    Returns:
        A batch that releases its buffer by itself; in a worker, a message that is unpickled as one.
    """
    message = BatchMessage(batch)
    return message if get_worker_info() else message.unpack()


class BatchMessage:
    """A batch that a worker sends: pickled here, it is unpickled as a :class:`Batch`.

    The images are sent as a handle of their shared memory, the other tensors by value: a handle
    costs a connection between the processes, which is too slow for small tensors.

    Args:
        batch: a batch whose images are from :meth:`ImageMemory.allocate`.
    """

    def __init__(self, batch: Batch) -> None:
        self.buffer, self.shape = _buffer_of(batch.images), tuple(batch.images.shape)
        self.others = {
            name: tensor.numpy()
            for name, tensor in vars(batch).items()
            if tensor is not None and name != "images"
        }

    def __reduce__(self) -> tuple:
        return _unpack, (self.buffer, self.shape, self.others)

    def unpack(self) -> Batch:
        """Returns the batch, which releases its buffer once nothing refers to its images."""
        return _unpack(self.buffer, self.shape, self.others)


def _unpack(buffer: Tensor, shape: tuple[int, ...], others: dict[str, np.ndarray]) -> Batch:
    # Every tensor of these images, and every view, refers to this array, which lives until the
    # last of them is freed.
    array = buffer.numpy()
    weakref.finalize(array, _release_in, os.getpid(), buffer).atexit = False
    images = torch.from_numpy(array)[: math.prod(shape)].view(shape)
    return Batch(images=images, **{name: torch.from_numpy(value) for name, value in others.items()})


def _release_in(process: int, buffer: Tensor) -> None:
    if os.getpid() == process:  # a forked process drops batches that its parent may still use
        buffer[-1] = _FREE


def shared_copy(image: np.ndarray) -> Tensor:
    """Copies an image; a worker's copy can be mapped by the process that receives it.

    Args:
        image: uint8, of any shape.
    """
    buffer = _new_buffer(max(1, image.size))
    copy = buffer[: image.size].view(image.shape)
    copy.numpy()[...] = image
    return copy


def keep_freed_memory() -> None:
    """Makes the allocator keep the memory of freed images for later ones.

    glibc returns large blocks to the system at once, and raises its limit for "large" to the size
    of a block that is freed, up to 32 MB. The memory of the block freed here is never used.
    """
    np.empty(_LARGEST, np.uint8)


def _buffer_of(images: Tensor) -> Tensor:
    """Returns the whole buffer that contains images: uint8 [bytes], the mark last."""
    return torch.empty(0, dtype=torch.uint8).set_(images.untyped_storage())


def _new_buffer(size: int) -> Tensor:
    """Allocates uint8 [size]; a worker's buffer is mapped, not copied, by its receiver."""
    if get_worker_info() is None:
        return torch.empty(size, dtype=torch.uint8)
    return shared_bytes(size)
