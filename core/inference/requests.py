"""What the detection of one image asks of the network: images of one size, seen together.

A detector's ``infer`` is a generator for one image. It yields requests and is sent, for each, what
the network finds in its images; so the way of one image reads from top to bottom, while
:mod:`.batches` runs the network for several images at once.
"""

from collections.abc import Generator, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..data.color import NORMALIZE, apply_color
from ..data.transforms import Size
from ..structures import Detections
from .crops import Crops, cut_crops


class Request(Protocol):
    """Images that the network shall see."""

    @property
    def key(self) -> Hashable:
        """Requests with equal keys can go through the network together."""
        ...

    @property
    def options(self) -> Mapping[str, Any]:
        """Arguments of the network's ``forward`` besides the images; the same for equal keys."""
        ...

    @staticmethod
    def batch(requests: Sequence[Any], device: torch.device) -> Tensor:
        """Makes the normalised images of several requests: float32 [B, 3, H, W] on a device."""
        ...

    @staticmethod
    def split(found: Any, requests: Sequence[Any]) -> list[Any]:
        """Divides what was decoded for :meth:`batch` among the requests."""
        ...


# Yields requests, is sent what the network finds in each, and returns the detections of an image.
Inference = Generator[Request, Any, Detections]


@dataclass(frozen=True)
class CanvasRequest:
    """An image as it is laid out for the network, and perhaps its mirror image.

    Attributes:
        canvas: uint8 [H, W, 3], BGR.
        mirrored: True: the network sees the mirror image too.
    """

    canvas: np.ndarray
    mirrored: bool

    @property
    def key(self) -> Hashable:
        """Size of the canvas, and whether there is a mirror image."""
        return self.canvas.shape, self.mirrored

    @property
    def options(self) -> Mapping[str, Any]:
        """None."""
        return {}

    @staticmethod
    def batch(requests: Sequence["CanvasRequest"], device: torch.device) -> Tensor:
        """Copies the canvases to the device as they are; normalises and mirrors them there.

        Returns:
            The images, and after all of them their mirror images if there are any.
        """
        shape = (len(requests), *requests[0].canvas.shape)
        on_host = torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
        for row, request in zip(on_host.numpy(), requests, strict=True):
            row[...] = request.canvas
        pixels = on_host.to(device, non_blocking=device.type == "cuda")
        images = normalized(pixels.permute(0, 3, 1, 2).contiguous())
        return torch.cat([images, images.flip(3)]) if requests[0].mirrored else images

    @staticmethod
    def split(found: Any, requests: Sequence["CanvasRequest"]) -> list[Any]:
        """Gives each request its own rows: that of the image, and that of the mirror image.

        What was averaged over both has one row an image.
        """
        count = len(requests)
        return [take(found, slice(row, None, count)) for row in range(count)]


class DeviceImage:
    """An image of which the crops of several rounds are cut; it is copied to a device once.

    Args:
        image: uint8 [h, w, 3].
    """

    def __init__(self, image: np.ndarray) -> None:
        self._image = image
        self._copy: Tensor | None = None

    def on(self, device: torch.device) -> Tensor:
        """The image on a device: uint8 [h, w, 3]."""
        if self._copy is None:
            self._copy = torch.from_numpy(self._image.copy()).to(device)
        return self._copy


@dataclass(frozen=True)
class CropRequest:
    """Crops of one image.

    Attributes:
        image: the image.
        crops: N views of it.
        size: height and width of a view.
        options: arguments of the network's ``forward`` besides the images.
    """

    image: DeviceImage
    crops: Crops
    size: Size
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> Hashable:
        """Size of the views, and the options."""
        return self.size, *sorted(self.options.items())

    @staticmethod
    def batch(requests: Sequence["CropRequest"], device: torch.device) -> Tensor:
        """Cuts the views of every image out of it, on the device, and normalises them."""
        views = [cut_crops(each.image.on(device), each.crops, each.size) for each in requests]
        return normalized(torch.cat(views))

    @staticmethod
    def split(found: Any, requests: Sequence["CropRequest"]) -> list[Any]:
        """Gives each request the rows of its views."""
        stops = np.cumsum([len(each.crops) for each in requests]).tolist()
        starts = [0, *stops[:-1]]
        return [take(found, slice(*ends)) for ends in zip(starts, stops, strict=True)]


def normalized(images: Tensor) -> Tensor:
    """Normalises images [B, 3, H, W] in 0..255, BGR: float32 on the same device."""
    color = torch.from_numpy(NORMALIZE).to(images.device, non_blocking=True)
    return apply_color(images, color.expand(len(images), -1, -1))


def take(found: Any, rows: slice) -> Any:
    """Takes some images' part of what was decoded.

    Args:
        found: a tensor or a list with one entry an image, or a tuple of such.
        rows: the entries of the images.
    """
    if not isinstance(found, tuple):
        return found[rows]
    return like(found, (take(part, rows) for part in found))


def like(found: tuple[Any, ...], parts: Iterable[Any]) -> tuple[Any, ...]:
    """Makes a tuple, or a named one of the type of ``found``, of other parts."""
    return tuple(parts) if type(found) is tuple else type(found)(*parts)
