"""The glossary of shapes: samples and batches, the maps of networks, detections.

Letters: B batch, C classes, H W height and width in output cells, M objects of the image with the
most objects in the batch, at least 2, n objects or detections of one image. Boxes are float32
``(x0, y0, x1, y1)`` in pixels; labels are 0-based and contiguous.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .detections import Detections as Detections


@dataclass(frozen=True)
class Sample:
    """One training image as a worker prepared it.

    Attributes:
        image: uint8 [3, height, width], BGR, with its colours unchanged; of any strides.
        boxes: float32 [n, 4], pixels of ``image``.
        labels: int64 [n].
        color: float32 [3, 4]: normalised pixel = ``color[:, :3] @ pixel + color[:, 3]``.
        usable: bool [n] or None: true for boxes that are trained as objects (CornerNet-Saccade).
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    color: np.ndarray
    usable: np.ndarray | None = None


@dataclass(frozen=True)
class Batch:
    """A batch of samples, as workers send it to the device; rows past ``counts`` are padding.

    Attributes:
        images: uint8 [B, 3, height, width], BGR.
        boxes: float32 [B, M, 4], pixels of ``images``.
        labels: int64 [B, M].
        counts: int64 [B], objects of each image.
        color: float32 [B, 3, 4], matrices as in :class:`Sample`.
        index: int64 [B], numbers of the images in their dataset.
        unreadable: int64 [r], numbers of the images that could not be decoded and were replaced.
        usable: bool [B, M] or None, as in :class:`Sample`.
        sizes: int64 [B, 2] or None: height and width of each image before it was padded with 0 at
            the right and at the bottom. None: all have one size, without padding.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    counts: Tensor
    color: Tensor
    index: Tensor
    unreadable: Tensor
    usable: Tensor | None = None
    sizes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def present(self) -> Tensor:
        """Mask of the rows of boxes and labels that are objects and not padding: bool [B, M]."""
        rows = torch.arange(self.labels.shape[1], device=self.counts.device)
        return rows < self.counts[:, None]

    @property
    def trained(self) -> Tensor:
        """Mask of the objects that are trained, those that are ``usable``: bool [B, M]."""
        return self.present if self.usable is None else self.present & self.usable

    def to(self, device: torch.device | str) -> "Batch":
        """Copies the batch to a device; only CUDA's copies go on after this returns.

        Apple's ``mps`` would read memory that a worker fills again (PyTorch's issue 189690).
        """
        non_blocking = torch.device(device).type == "cuda"
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """Copies the batch to page-locked memory, from which copies to a GPU run asynchronously."""
        return self._map(Tensor.pin_memory)

    def __getitem__(self, rows: slice) -> "Batch":
        """Takes the images of ``rows``; the list of unreadable images stays complete."""
        unreadable = self.unreadable
        return replace(self._map(lambda tensor: tensor[rows]), unreadable=unreadable)

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """Applies ``function`` to every tensor."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(
            self,
            **{name: function(tensor) for name, tensor in tensors.items() if tensor is not None},
        )


def collate(
    samples: list[Sample],
    index: list[int],
    unreadable: list[int] | None = None,
    images: Tensor | None = None,
) -> Batch:
    """Stacks samples into a batch, padded to the most objects and to the largest sides.

    Args:
        samples: B samples.
        index: B numbers of the images in their dataset.
        unreadable: numbers of images that were replaced because they could not be decoded.
        images: uint8 [B, 3, height, width], the samples' images if they are stacked already.
    """
    counts = np.array([len(sample.boxes) for sample in samples])
    objects = max(2, counts.max())  # compilers take a length of 1 for a constant
    boxes = np.zeros((len(samples), objects, 4), np.float32)
    labels = np.zeros((len(samples), objects), np.int64)
    usable = None
    if samples[0].usable is not None:
        usable = np.zeros((len(samples), objects), bool)
    for row, sample in enumerate(samples):
        boxes[row, : counts[row]] = sample.boxes
        labels[row, : counts[row]] = sample.labels
        if usable is not None:
            usable[row, : counts[row]] = sample.usable
    shapes = np.array([sample.image.shape for sample in samples])  # [B, 3]
    if images is None:
        images = torch.zeros((len(samples), *shapes.max(0)), dtype=torch.uint8)
        for image, sample in zip(images.numpy(), samples, strict=True):
            image[:, : sample.image.shape[1], : sample.image.shape[2]] = sample.image
    differ = (shapes != shapes[0]).any()
    return Batch(
        images=images,
        boxes=torch.from_numpy(boxes),
        labels=torch.from_numpy(labels),
        counts=torch.from_numpy(counts.astype(np.int64)),
        color=torch.from_numpy(np.stack([sample.color for sample in samples]).astype(np.float32)),
        index=torch.tensor(index, dtype=torch.int64),
        unreadable=torch.tensor(unreadable or [], dtype=torch.int64),
        usable=None if usable is None else torch.from_numpy(usable),
        sizes=torch.from_numpy(shapes[:, 1:].astype(np.int64)) if differ else None,
    )


class CornerMaps(NamedTuple):
    """Maps of corners from the heads of one stack (CornerNet, section 3).

    Attributes:
        tl_heatmap, br_heatmap: logits [B, C, H, W] of top-left and bottom-right corners.
        tl_embedding, br_embedding: [B, 1, H, W], close for the two corners of one object; [B, n, 1]
            if the network was asked for n cells only.
        tl_offset, br_offset: [B, 2, H, W], (x, y) fraction of a cell to add to the cell's number;
            [B, n, 2] if the network was asked for n cells only.
    """

    tl_heatmap: Tensor
    br_heatmap: Tensor
    tl_embedding: Tensor
    br_embedding: Tensor
    tl_offset: Tensor
    br_offset: Tensor


class CentripetalMaps(NamedTuple):
    """Maps of corners that point to the centre of their box (CentripetalNet, arXiv:2003.09119).

    Attributes:
        tl_heatmap, br_heatmap: as in :class:`CornerMaps`.
        tl_shift, br_shift: [B, 2, H, W], natural logarithm of half the width and half the height,
            in cells, of the box that has a corner there; [B, n, 2] if the network was asked for n
            cells only.
        tl_offset_bins, br_offset_bins: [B, 2 * VALUES, H, W] or [B, n, 2 * VALUES], distributions
            of the offset as in :mod:`core.layers.distribution`, logits.
        center_heatmap: [B, C, H, W], logits that a cell lies in the middle of an object
            (arXiv:1904.08189).
    """

    tl_heatmap: Tensor
    br_heatmap: Tensor
    tl_shift: Tensor
    br_shift: Tensor
    tl_offset_bins: Tensor
    br_offset_bins: Tensor
    center_heatmap: Tensor


class GuidedMaps(NamedTuple):
    """Maps of CentripetalNet: corners with shifts, and guiding shifts (section 3.3).

    Attributes:
        tl_heatmap, br_heatmap, tl_offset, br_offset: as in :class:`CornerMaps`.
        tl_shift, br_shift: as in :class:`CentripetalMaps`.
        tl_guiding, br_guiding: [B, 2, H, W], (x, y) from a cell that has a corner to the centre of
            the corner's box, in cells, counted towards the inside of the box; [B, n, 2] if the
            network was asked for n cells only.
    """

    tl_heatmap: Tensor
    br_heatmap: Tensor
    tl_shift: Tensor
    br_shift: Tensor
    tl_offset: Tensor
    br_offset: Tensor
    tl_guiding: Tensor
    br_guiding: Tensor


class CenterMaps(NamedTuple):
    """Maps of centres from the heads of one stack (CenterNet, arXiv:1904.07850, section 3).

    Attributes:
        heatmap: logits [B, C, H, W] of the centres of boxes.
        size: [B, 2, H, W], width and height of the box about a centre, in cells; [B, n, 2] if the
            network was asked for n cells only.
        offset: [B, 2, H, W], (x, y) fraction of a cell to add to the cell's number; [B, n, 2] if
            the network was asked for n cells only.
    """

    heatmap: Tensor
    size: Tensor
    offset: Tensor


class Peaks(NamedTuple):
    """The k highest local maxima of n heatmaps of each image, highest first.

    Attributes:
        scores: float32 [n, B, k], values of the heatmap; -inf where an image has fewer peaks.
        labels: int64 [n, B, k], classes; 0 where there is no peak.
        cells: int64 [n, B, k], y * W + x; 0 where there is no peak.
    """

    scores: Tensor
    labels: Tensor
    cells: Tensor


class SearchedMaps(NamedTuple):
    """Maps of a network that searched for the cells itself at which its heads are read.

    Attributes:
        maps: the maps.
        peaks: of corners, n = 2, those of the top-left and of the bottom-right heatmap, whose
            scores are logits; of centres, n = 1, whose scores are probabilities and, with mirror
            images, the means of both, for the images alone.
    """

    maps: CornerMaps | CentripetalMaps | GuidedMaps | CenterMaps
    peaks: Peaks


class SaccadeMaps(NamedTuple):
    """Maps from the heads of one stack of CornerNet-Saccade (CornerNet-Lite, section 3).

    Attributes:
        corners: maps of corners, with their peaks if the network searched for them.
        attention: logits [B, 1, h, w] of the centres of objects, coarse first: a map for each range
            of sizes. Empty if not asked for.
    """

    corners: CornerMaps | CentripetalMaps | SearchedMaps
    attention: list[Tensor]


NO_DETECTIONS = Detections(
    np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
)
