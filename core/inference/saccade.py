"""Inference by saccades: a glance at the whole picture, then closer looks where objects may be.

CornerNet-Lite, arXiv:1904.08900, section 3.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.color import NORMALIZE
from ..data.transforms import Size
from ..decode.corners import REJECTED
from ..decode.soft_nms import SCORE, Method, best_detections, suppress
from ..structures import Detections
from ..targets.color import apply_color
from .crops import Crops, cut_crops, plan_crops
from .locations import (
    attention_locations,
    attention_peaks,
    detection_locations,
    suppress_locations,
)
from .predict import Predict

_GLANCE_SCORE = 0.3  # lowest score of a detection of the first pass
_DISTANCE = 16 / 255  # of a view's side, see suppress_locations
_SIGMA = 0.7  # of soft-NMS


class SaccadePrediction(NamedTuple):
    """What decoding gives for B views.

    Attributes:
        detections: float32 [B, n, 8] in output cells: box, score, scores of the top-left and of the
            bottom-right corner, class.
        attention: probabilities float32 [B, 1, h, w], coarse first; empty if nobody asked for them.
    """

    detections: Tensor
    attention: list[Tensor]


@dataclass(frozen=True)
class Gaze:
    """How a picture is looked at.

    Attributes:
        input_size: height and width of a view, in pixels.
        output_size: height and width of its heatmaps, in cells.
        init_sizes: longer sides that the whole picture gets in the views of the first pass.
        ranges: longer sides, in pixels of a view, of the objects of each attention map.
        strides: pixels a cell, of each attention map.
        windows: in which attention must be highest, of each map, in cells.
        zooms: for each round after the first pass, how much closer to look, of each map.
        thresholds: of attention, for each of these rounds.
        max_crops: views of all these rounds together.
        detections_too: look closer at clear detections too.
    """

    input_size: Size
    output_size: Size
    init_sizes: tuple[int, ...]
    ranges: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    windows: tuple[int, ...]
    zooms: tuple[tuple[float, ...], ...]
    thresholds: tuple[float, ...]
    max_crops: int
    detections_too: bool


@dataclass(frozen=True)
class Look:
    """One round: views of one picture that went through the network together.

    Attributes:
        crops: N views.
        detections: float32 [n, 8], of all views, boxes in pixels of the picture.
        attention: probabilities float32 [N, 1, h, w], see :class:`SaccadePrediction`.
    """

    crops: Crops
    detections: np.ndarray
    attention: list[Tensor]


def detect_saccades(
    image: np.ndarray,
    predict: Predict,
    *,
    gaze: Gaze,
    nms_algorithm: Method,
    nms_threshold: float,
    max_per_image: int,
) -> Detections:
    """Finds the objects of one picture.

    Args:
        image: uint8 [h, w, 3], BGR.
        predict: gives a :class:`SaccadePrediction` of normalised images float32 [B, 3, H, W] on its
            device; ``attention=False`` says that the attention maps are not needed.
        gaze: how to look.
        nms_algorithm, nms_threshold: see :func:`core.decode.soft_nms.suppress`.
        max_per_image: detections to keep; more where the last ones have equal scores.

    Returns:
        Detections in pixels of ``image``; they may reach beyond it.
    """
    return merge_looks(
        look_closer(image, predict, gaze),
        nms_algorithm=nms_algorithm,
        nms_threshold=nms_threshold,
        max_per_image=max_per_image,
    )


def look_closer(image: np.ndarray, predict: Predict, gaze: Gaze) -> list[Look]:
    """Looks at a picture, round after round, until nothing calls for a closer look.

    The picture is copied to the network's device once; all views of a round are cut and run there
    as one batch.

    Args:
        image, predict, gaze: see :func:`detect_saccades`.

    Returns:
        The rounds; the first one is the first pass over the whole picture.
    """
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3, image.shape
    picture = torch.from_numpy(image.copy()).to(predict.device)
    locations = first_locations(image.shape[:2], gaze.init_sizes)
    looks: list[Look] = []
    left = gaze.max_crops
    while len(locations):
        go_on = len(looks) < len(gaze.thresholds) and left > 0
        crops = plan_crops(locations, image.shape[:2], gaze.input_size)
        lowest = REJECTED if looks else _GLANCE_SCORE
        looks.append(_look(picture, crops, predict, gaze, lowest, go_on))
        if not go_on:
            break
        locations = _next_locations(looks, image.shape[:2], gaze, left)
        left -= len(locations)
    return looks


def merge_looks(
    looks: list[Look], *, nms_algorithm: Method, nms_threshold: float, max_per_image: int
) -> Detections:
    """Suppresses the detections of all rounds together; arguments as :func:`detect_saccades`."""
    found = np.concatenate([look.detections for look in looks])
    rows, labels = suppress(
        found[:, :7],
        found[:, 7].astype(np.int64),
        method=nms_algorithm,
        nms_threshold=nms_threshold,
        sigma=_SIGMA,
    )
    return best_detections(rows, labels, max_per_image)


def first_locations(image_size: Size, init_sizes: tuple[int, ...]) -> np.ndarray:
    """The views of the first pass, about the picture's middle: float64 [len(init_sizes), 3].

    The scales are float32 numbers, as in the reference: windows are cut off to whole pixels, so the
    last digit moves boxes by up to a pixel.
    """
    height, width = image_size
    scales = np.array([size / max(height, width) for size in init_sizes], np.float32)
    middle = np.full(len(scales), height // 2), np.full(len(scales), width // 2)
    return np.stack((*middle, scales.astype(np.float64)), 1)


def _look(
    picture: Tensor, crops: Crops, predict: Predict, gaze: Gaze, lowest: float, attention: bool
) -> Look:
    """Runs one round; keeps the detections whose score is above ``lowest``."""
    views = cut_crops(picture, crops, gaze.input_size)
    color = torch.from_numpy(NORMALIZE).to(views.device).expand(len(views), -1, -1)
    prediction: SaccadePrediction = predict(apply_color(views, color), attention=attention)
    found = prediction.detections.cpu().double().numpy().copy()  # [N, n, 8]
    for axis, columns in enumerate(([1, 3], [0, 2])):
        found[..., columns] /= gaze.output_size[axis] / gaze.input_size[axis]
        found[..., columns] /= crops.scales[:, None, None]
        found[..., columns] += crops.offsets[:, axis, None, None]
    found = found.reshape(-1, 8)
    kept = found[:, SCORE] > lowest
    return Look(crops, found[kept].astype(np.float32), prediction.attention)


def _next_locations(looks: list[Look], image_size: Size, gaze: Gaze, limit: int) -> np.ndarray:
    """The ``limit`` best of what the last round calls for, see :mod:`core.inference.locations`."""
    last, number = looks[-1], len(looks) - 1
    peaks = attention_peaks(last.attention, gaze.windows)
    locations = attention_locations(
        [map_.cpu().numpy() for map_ in peaks],
        last.crops,
        image_size,
        strides=gaze.strides,
        zooms=gaze.zooms[number],
        threshold=gaze.thresholds[number],
        closer_only=number > 0,
    )
    if not gaze.detections_too:
        best = np.argsort(-locations[:, 3], kind="stable")[:limit]
        return locations[np.sort(best)]
    side = min(gaze.input_size)
    clear = detection_locations(last.detections, gaze.ranges, side)
    return suppress_locations(np.concatenate((locations, clear)), _DISTANCE * side, limit)
