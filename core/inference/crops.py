"""Views of a picture: where they lie, and cutting all of them out at once."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.transforms import Size, linear_taps

_SMALLEST_WINDOW = 2  # pixels; a window of one would be empty, see plan_crops


@dataclass(frozen=True)
class Crops:
    """N views of a picture, all of one size. The last axis of [N, 2] is (y, x).

    Attributes:
        scales: float64 [N]: point of the picture = point of the view / scale + offset.
        offsets: int64 [N, 2], pixel of the picture at pixel (0, 0) of a view.
        start, stop: int64 [N, 2], the part of the picture that is seen, at least one pixel.
        seen_start, seen_stop: int64 [N, 2], where it is seen in the view; all else is black.
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
    """Lays a window about each location, and cuts it at the picture's edges.

    A window is the view divided by the scale, in whole pixels, and reaches half its size, rounded
    down, to each side of the location. All of this is float64, for it is cut off to whole numbers.

    Args:
        locations: float64 [N, 3 or more]: y, x, scale. A location so far outside the picture that
            its window would miss it is moved, and no scale makes a window smaller than two pixels.
        image_size: height and width of the picture.
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


def cut_crops(picture: Tensor, crops: Crops, view_size: Size) -> Tensor:
    """Cuts all views out of a picture, each resized bilinearly by itself.

    Args:
        picture: uint8 [h, w, 3], on any device.
        crops: N views of it.
        view_size: height and width of the views.

    Returns:
        float32 [N, 3, *view_size], in 0..255 and black outside the picture, on the same device.
    """
    upper, lower, down, seen_down = _taps(crops, 0, view_size[0], picture.device).unbind()
    left, right, across, seen_across = _taps(crops, 1, view_size[1], picture.device).unbind()

    def read(rows: Tensor, columns: Tensor) -> Tensor:
        rows, columns = rows.long()[:, :, None], columns.long()[:, None, :]
        return picture[rows, columns].float()  # [N, H, W, 3]

    down, across = down[:, :, None, None], across[:, None, :, None]
    above = read(upper, left).lerp_(read(upper, right), across)
    below = read(lower, left).lerp_(read(lower, right), across)
    views = above.lerp_(below, down)
    views *= (seen_down[:, :, None] * seen_across[:, None, :])[..., None]
    return views.permute(0, 3, 1, 2).contiguous()


def _taps(crops: Crops, axis: int, length: int, device: torch.device) -> Tensor:
    """Of one axis of every view: two pixels, the second's weight, what is seen.

    float32 [4, N, length]: one copy to the device; numbers of pixels are exact up to 2^24.
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
