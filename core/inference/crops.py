"""Views of an image: planning their windows, and cutting all of them out at once."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.transforms import Size, linear_taps

_SMALLEST_WINDOW = 2  # pixels; half of one, rounded down, would be an empty window


@dataclass(frozen=True)
class Crops:
    """N views of an image, all of one size. The last axis of [N, 2] is (y, x).

    Attributes:
        scales: float64 [N]: point of the image = point of the view / scale + offset.
        offsets: int64 [N, 2], pixel of the image at pixel (0, 0) of a view.
        start, stop: int64 [N, 2], the visible part of the image, at least one pixel.
        seen_start, seen_stop: int64 [N, 2], its position in the view; the rest is black.
    """

    scales: np.ndarray
    offsets: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    seen_start: np.ndarray
    seen_stop: np.ndarray

    def __len__(self) -> int:
        return len(self.scales)


def plan_crops(locations: np.ndarray, image_size: Size, view_size: Size) -> Crops:
    """Plans a window about each location, and clips it to the image.

    A window is the view divided by the scale, in whole pixels, and reaches half its size, rounded
    down, to each side of the location. Everything is float64 and then cut off to whole numbers.

    Args:
        locations: float64 [N, 3 or more]: y, x, scale. A location so far outside the image that
            its window would miss it is moved, and no scale makes a window smaller than two pixels.
        image_size: height and width of the image.
        view_size: height and width of the views.
    """
    size, view = np.array(image_size), np.array(view_size)
    scales = np.minimum(locations[:, 2], view.min() / _SMALLEST_WINDOW)
    windows = (view / scales[:, None]).astype(np.int64)
    half = windows // 2
    centers = np.clip(locations[:, :2].astype(np.int64), 1 - half, size - 1 + half)
    start, stop = np.maximum(centers - half, 0), np.minimum(centers + half, size)
    zoom = view / windows
    seen_start = view // 2 - ((centers - start) * zoom).astype(np.int64)
    seen_start = np.minimum(seen_start, view - 1)
    seen_stop = view // 2 + ((stop - centers) * zoom).astype(np.int64)
    return Crops(
        scales=scales,
        offsets=centers - half,
        start=start,
        stop=stop,
        seen_start=seen_start,
        seen_stop=np.maximum(seen_stop, seen_start + 1),
    )


def cut_crops(image: Tensor, crops: Crops, view_size: Size) -> Tensor:
    """Cuts all views out of an image, each resized bilinearly by itself.

    Args:
        image: uint8 [h, w, 3], on any device.
        crops: N views of it.
        view_size: height and width of the views.

    Returns:
        float32 [N, 3, *view_size], in 0..255 and black outside the image, on the same device.
    """
    upper, lower, down, seen_down = _taps(crops, 0, view_size[0], image.device).unbind()
    left, right, across, seen_across = _taps(crops, 1, view_size[1], image.device).unbind()

    def read(rows: Tensor, columns: Tensor) -> Tensor:
        rows, columns = rows.long()[:, :, None], columns.long()[:, None, :]
        return image[rows, columns].float()  # [N, H, W, 3]

    down, across = down[:, :, None, None], across[:, None, :, None]  # [N, H, 1, 1], [N, 1, W, 1]
    above = read(upper, left).lerp_(read(upper, right), across)
    below = read(lower, left).lerp_(read(lower, right), across)
    views = above.lerp_(below, down)
    views *= (seen_down[:, :, None] * seen_across[:, None, :])[..., None]
    return views.permute(0, 3, 1, 2).contiguous()


def _taps(crops: Crops, axis: int, length: int, device: torch.device) -> Tensor:
    """Computes two pixels, the second's weight and visibility, along one axis of every view.

    Returns:
        float32 [4, N, length], for one copy to the device; pixel numbers are exact up to 2^24.
    """
    start, stop = crops.start[:, axis, None], crops.stop[:, axis, None]
    seen_start, seen_stop = crops.seen_start[:, axis, None], crops.seen_stop[:, axis, None]
    positions = np.arange(length)
    first, second, weight = linear_taps(
        positions - seen_start, stop - start, seen_stop - seen_start
    )
    seen = (positions >= seen_start) & (positions < seen_stop)
    parts = np.stack((start + first, start + second, weight, seen))
    return torch.from_numpy(parts.astype(np.float32)).to(device)
