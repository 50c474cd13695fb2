"""Inference by saccades: first the whole image, downsized, then crops where objects may be.

CornerNet-Lite, arXiv:1904.08900, section 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ..data.transforms import Size
from ..decode.corners import REJECTED
from ..decode.soft_nms import SCORE, Method, best_detections, suppress
from .crops import Crops, plan_crops
from .locations import (
    attention_locations,
    detection_locations,
    suppress_locations,
)
from .requests import CropRequest, DeviceImage, Inference

_FIRST_SCORE = 0.3  # lowest score of a detection of the first round
_DISTANCE = 16 / 255  # least distance of two locations, as a part of a view's side
_SIGMA = 0.7  # of soft-NMS


class SaccadePrediction(NamedTuple):
    """Decoded outputs of the network for B views.

    Attributes:
        detections: float32 [B, n, 8] in output cells: box, score, scores of the top-left and of the
            bottom-right corner, class.
        attention: probabilities float32 [B, 1, h, w], coarse first; empty if not asked for.
        peaks: attention at its local maxima, and 0 elsewhere.
    """

    detections: Tensor
    attention: Sequence[Tensor]
    peaks: Sequence[Tensor]


@dataclass(frozen=True)
class SaccadeSettings:
    """Settings of the rounds, and of the suppression of what they find.

    Attributes:
        input_size: height and width of a view, in pixels.
        output_size: height and width of its heatmaps, in cells.
        init_sizes: longer sides of the whole image in the views of the first round.
        ranges: longer sides, in pixels of a view, of the objects of each attention map.
        strides: pixels per cell, of each attention map.
        zooms: for each round after the first, the zoom at the locations of each map.
        thresholds: for each of these rounds, attention above which a cell becomes a location.
        max_crops: largest number of views in all these rounds together.
        detections_too: True: zoom in on clear detections too.
        nms_algorithm, nms_threshold: as for :func:`core.decode.soft_nms.suppress`.
        max_per_image: detections to keep; more where the last ones have equal scores.
    """

    input_size: Size
    output_size: Size
    init_sizes: tuple[int, ...]
    ranges: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    zooms: tuple[tuple[float, ...], ...]
    thresholds: tuple[float, ...]
    max_crops: int
    detections_too: bool
    nms_algorithm: Method
    nms_threshold: float
    max_per_image: int


@dataclass(frozen=True)
class SaccadeRound:
    """One round: views of one image that went through the network together.

    Attributes:
        crops: N views.
        detections: float32 [n, 8], of all views, boxes in pixels of the image.
        attention: probabilities float32 [N, 1, h, w], coarse first; empty for a round that no other
            could follow.
        peaks: attention at its local maxima, and 0 elsewhere.
        strides, ranges: strides and ranges of the attention maps, as in :class:`SaccadeSettings`.
    """

    crops: Crops
    detections: np.ndarray
    attention: Sequence[Tensor]
    peaks: Sequence[Tensor]
    strides: tuple[int, ...]
    ranges: tuple[tuple[int, int], ...]


def detect_saccades(
    image: np.ndarray, trace: list[SaccadeRound] | None = None, *, settings: SaccadeSettings
) -> Inference:
    """Finds the objects of one image, round after round, until no location is left to crop.

    The image is copied to the network's device once; all views of a round are cut and run there
    together. The detections of all rounds are suppressed together.

    Args:
        image: uint8 [h, w, 3], BGR.
        trace: list to which the rounds are appended, the round of the whole image first.
        settings: settings of the rounds and of the suppression.

    Yields:
        The views of each round. It is sent their :class:`SaccadePrediction`, for the last round,
        with the network's option ``attention=False``, without attention.

    Returns:
        Detections in pixels of ``image``; they may reach beyond it.
    """
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3, image.shape
    pixels = DeviceImage(image)
    size = image.shape[:2]
    locations = first_locations(size, settings.init_sizes)
    rounds: list[SaccadeRound] = []
    left = settings.max_crops
    while len(locations):
        can_zoom = len(rounds) < len(settings.thresholds) and left > 0
        crops = plan_crops(locations, size, settings.input_size)
        options = {"attention": can_zoom}
        prediction = yield CropRequest(pixels, crops, settings.input_size, options)
        lowest = REJECTED if rounds else _FIRST_SCORE
        rows = rows_in_image(prediction.detections, crops, settings, lowest)
        _, attention, peaks = prediction
        rounds.append(
            SaccadeRound(crops, rows, attention, peaks, settings.strides, settings.ranges)
        )
        if not can_zoom:
            break
        locations = next_locations(rounds, size, settings, left)
        left -= len(locations)
    if trace is not None:
        trace.extend(rounds)
    found = np.concatenate([round_.detections for round_ in rounds])
    rows, labels = suppress(
        found[:, :7],
        found[:, 7].astype(np.int64),
        method=settings.nms_algorithm,
        nms_threshold=settings.nms_threshold,
        sigma=_SIGMA,
    )
    return best_detections(rows, labels, settings.max_per_image)


def first_locations(image_size: Size, init_sizes: tuple[int, ...]) -> np.ndarray:
    """Locations of the first round, in the image's middle: float64 [len(init_sizes), 3].

    The scales are float32 numbers, as in the reference: windows are rounded down to whole pixels,
    so the last digit moves boxes by up to a pixel.
    """
    height, width = image_size
    scales = np.array([size / max(height, width) for size in init_sizes], np.float32)
    middle = np.full(len(scales), height // 2), np.full(len(scales), width // 2)
    return np.stack((*middle, scales.astype(np.float64)), 1)


def rows_in_image(
    decoded: Tensor, crops: Crops, settings: SaccadeSettings, lowest: float
) -> np.ndarray:
    """Converts detections with a score above ``lowest`` from cells of views to pixels of the image.

    Args:
        decoded: [N, n, 8], detections in N views.
        crops: the views.
        settings: sizes of the views and of their maps.
        lowest: score above which a detection is kept.

    Returns:
        float32 [m, 8], boxes in pixels of the image.
    """
    rows = decoded.double().numpy()
    for axis, columns in enumerate(([1, 3], [0, 2])):
        rows[..., columns] /= settings.output_size[axis] / settings.input_size[axis]
        rows[..., columns] /= crops.scales[:, None, None]
        rows[..., columns] += crops.offsets[:, axis, None, None]
    return rows[rows[..., SCORE] > lowest].astype(np.float32)


def next_locations(
    rounds: list[SaccadeRound], image_size: Size, settings: SaccadeSettings, limit: int
) -> np.ndarray:
    """Finds the ``limit`` best locations that follow from the last round (:mod:`.locations`)."""
    last, number = rounds[-1], len(rounds) - 1
    locations = attention_locations(
        [map_.numpy() for map_ in last.peaks],
        last.crops,
        image_size,
        strides=settings.strides,
        zooms=settings.zooms[number],
        threshold=settings.thresholds[number],
        closer_only=number > 0,
    )
    if not settings.detections_too:
        best = np.argsort(-locations[:, 3], kind="stable")[:limit]
        return locations[np.sort(best)]
    side = min(settings.input_size)
    clear = detection_locations(last.detections, settings.ranges, side)
    return suppress_locations(np.concatenate((locations, clear)), _DISTANCE * side, limit)
