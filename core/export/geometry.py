"""What an exported detector needs to know of how images are laid out for the network."""

from dataclasses import dataclass

import numpy as np

from cpools_ext.portable import MOST_CELLS

from ..data.transforms import Size
from ..inference.centers import CenterSettings
from ..inference.corners import CornerSettings, lay_out
from ..inference.saccade import SaccadeSettings

Settings = CornerSettings | CenterSettings | SaccadeSettings

_PADDED_TO = 128  # corner detectors' canvases are one pixel short of multiples of it


@dataclass(frozen=True)
class Sides:
    """The lengths that a side of the network's input can have: ``step * k - lacking``, in pixels.

    Attributes:
        step, lacking: as above, for whole numbers k.
        least, most: the shortest and the longest one; equal if the length is fixed.
    """

    step: int
    lacking: int
    least: int
    most: int

    @property
    def fixed(self) -> bool:
        """True if there is one length only."""
        return self.least == self.most


def fixed_side(side: int) -> Sides:
    """A side that has one length."""
    return Sides(side, 0, side, side)


def varying_sides(settings: Settings) -> tuple[Sides, Sides]:
    """Heights and widths of all canvases that images are laid out in.

    They are fixed where every image is scaled into one size.
    """
    if isinstance(settings, SaccadeSettings):
        height, width = settings.input_size
        return fixed_side(height), fixed_side(width)
    stride = stride_of(settings)
    if isinstance(settings, CornerSettings):
        if settings.fit_size is None:
            return _varying(_PADDED_TO, 1, stride), _varying(_PADDED_TO, 1, stride)
        trained, step = settings.fit_size, settings.coarsest_stride
    else:
        geometry = settings.geometry
        trained, step = geometry.input_size, geometry.coarsest_stride
        if geometry.resolution == "fix":
            return fixed_side(trained[0]), fixed_side(trained[1])
        if geometry.resolution == "keep":
            return _varying(step, 0, stride), _varying(step, 0, stride)
    return _varying(step, -trained[0] % step, stride), _varying(step, -trained[1] % step, stride)


def canvas_size(settings: Settings, image_size: Size) -> Size:
    """Height and width of the canvas in which an image of a size is laid out at the first scale."""
    if isinstance(settings, SaccadeSettings):
        return settings.input_size
    image, scale = np.zeros((*image_size, 3), np.uint8), settings.test_scales[0]
    if isinstance(settings, CenterSettings):
        canvas = settings.geometry.view(image, scale).canvas
    else:
        canvas = lay_out(image, scale, settings.fit_size, settings.coarsest_stride).canvas
    return canvas.shape[0], canvas.shape[1]


def stride_of(settings: Settings) -> int:
    """Pixels of the network's input per cell of its heatmaps."""
    if isinstance(settings, CornerSettings):
        return settings.stride
    return (
        settings.strides[-1] if isinstance(settings, SaccadeSettings) else settings.geometry.stride
    )


def _varying(step: int, lacking: int, stride: int) -> Sides:
    most = max(1, MOST_CELLS * stride // step)
    return Sides(step, lacking, step - lacking, most * step - lacking)
