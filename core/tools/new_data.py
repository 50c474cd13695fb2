"""What the choices of `cornerkit new` need to know of a dataset: its images, and their objects."""

import math
from dataclasses import dataclass

import numpy as np

from ..data.coco import CocoDetection

MIXED = 0.1  # fraction of upright and of wide images, each, from which on a dataset has both
# An object is large if its longer side is more than this part of its image's.
LARGE_PART = 1 / 3
LARGE_SIDE = 128  # pixels of the image; in smaller ones nothing is large
ENOUGH_BOXES = 20  # fewer do not say how sizes differ


@dataclass(frozen=True)
class Summary:
    """What the choices need of a training split and its validation split.

    Attributes:
        sizes: int [N, 2], height and width of the images.
        extents: float [M, 2], height and width of the boxes, in pixels of their images.
        owners: int [M], number of each box's image.
        labels: int [M].
        validation_images: number of images of the validation split.
    """

    sizes: np.ndarray
    extents: np.ndarray
    owners: np.ndarray
    labels: np.ndarray
    validation_images: int

    @classmethod
    def of(cls, training: CocoDetection, validation: CocoDetection) -> "Summary":
        """Summarises a training split; of the validation split only the number of images counts."""
        boxes = np.concatenate([training.boxes(index) for index in range(len(training))])
        owners = np.repeat(np.arange(len(training)), training.box_counts())
        extents = (boxes[:, 2:] - boxes[:, :2])[:, ::-1]
        labels = np.concatenate([training.labels(index) for index in range(len(training))])
        return cls(training.sizes, extents, owners, labels, len(validation))

    @property
    def has_large_objects(self) -> bool:
        """True if most objects fill much of their image, which is not tiny."""
        longer = self.extents.max(axis=1)
        parts = longer / self.sizes[self.owners].max(axis=1)
        return bool(np.median(parts) > LARGE_PART and np.median(longer) > LARGE_SIDE)

    @property
    def size_spread(self) -> float | None:
        """Deviation of the logarithm of the sizes within a class; None for too few boxes.

        A size is the square root of a box's area, as a fraction of its image's longer side.
        """
        sides = np.sqrt(self.extents.prod(axis=1)) / self.sizes[self.owners].max(axis=1)
        logs = np.log(sides)
        counts = np.bincount(self.labels)
        means = np.bincount(self.labels, logs) / np.maximum(counts, 1)
        if len(logs) - np.count_nonzero(counts) < ENOUGH_BOXES:
            return None
        squares = (logs - means[self.labels]) ** 2
        return math.sqrt(squares.sum() / (len(logs) - np.count_nonzero(counts)))

    @property
    def most_objects(self) -> int:
        """Largest number of objects in an image."""
        return int(np.bincount(self.owners).max())

    def extents_in(self, input_size: tuple[int, int]) -> np.ndarray:
        """Computes the extents in images that are scaled to fit: float [M, 2]."""
        return self.extents * zooms(self.sizes, input_size)[self.owners, None]


def zooms(sizes: np.ndarray, input_size: tuple[float, float]) -> np.ndarray:
    """Computes by how much images of ``sizes`` [N, 2] are scaled to fit: float [N]."""
    return (np.array(input_size) / sizes).min(axis=1)


def has_mixed_orientations(sizes: np.ndarray) -> bool:
    """True if many of the images of ``sizes`` [N, 2] are upright, and many are wide."""
    upright = np.mean(sizes[:, 0] > 1.1 * sizes[:, 1])
    wide = np.mean(sizes[:, 1] > 1.1 * sizes[:, 0])
    return bool(min(upright, wide) > MIXED)
