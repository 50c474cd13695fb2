"""What a detector of corners would reach if its corners were paired, or placed, by the truth.

The corners themselves stay the detector's: an object is not found if one of its corners is too far
off, or not among the ``db.top_k`` best. Pairs by the truth are pairs of objects only, so that false
detections are gone as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config.loading import Config
from ..data.coco import CocoDetection
from ..decode.corners import REJECTED, Corners, best_corners, center_scores
from ..inference.corners import CornerSettings, View, detect_corners, lay_out
from ..inference.predict import Predict
from ..inference.saccade import SaccadeRound
from ..models.detector import Detector
from ..structures import CentripetalMaps, Detections
from ..targets.gaussian import gaussian_radius

# What the truth decides: which corners are of one object, where a corner lies, or both of them.
ORACLES = ("pairs", "offsets", "both")

# A corner is an object's if it lies so near to its place that both corners, as far off as that,
# still leave this overlap with the object's box. A cell is near enough always.
_OVERLAP, _LEAST_DISTANCE = 0.5, 1.0


@dataclass(frozen=True)
class _Truth:
    """Objects of an image in the cells of a view, and in those of its mirror image.

    Attributes:
        corners: float32 [B, 2, M, 2], (x, y) of the top-left and the bottom-right corners, B = 2
            with the mirror image.
        labels: int64 [M].
        reach: float32 [M], distance in x and in y up to which a corner is the object's.
    """

    corners: Tensor
    labels: Tensor
    reach: Tensor


@dataclass(frozen=True)
class _Seen:
    """What a network gives for one view: its own detections, and its corners.

    Attributes:
        rows: float32 [B, n, 8], decoded as the detector does.
        tl, br: best corners.
        centers: map of centres that confirms pairs, logits [B, C, H, W], if there is one; their
            corners then score their geometric mean, not the arithmetic one.
    """

    rows: Tensor
    tl: Corners
    br: Corners
    centers: Tensor | None


class OracleInfer:
    """An ``infer`` of a detector that finds objects by the oracles too, in the same pass.

    It must be called for the images of the dataset in their order, each once.

    Args:
        detector: a detector of corners (:func:`has_oracles`).
        dataset: dataset with the truth.
        config: the detector's config.

    Attributes:
        found: detections by each of :data:`ORACLES`, one for every image so far.
    """

    def __init__(self, detector: Detector, dataset: CocoDetection, config: Config) -> None:
        assert isinstance(detector.infer, partial)
        self._settings: CornerSettings = detector.infer.keywords["settings"]
        self._dataset = dataset
        self._top_k, self._kernel = config.db.top_k, config.db.nms_kernel
        self.found: dict[str, list[Detections]] = {name: [] for name in ORACLES}

    def __call__(
        self, image: np.ndarray, predict: Predict, trace: list[SaccadeRound] | None = None
    ) -> Detections:
        """Finds the objects of the next image, as :func:`core.inference.corners.detect_corners`."""
        index, settings = len(self.found["pairs"]), self._settings
        boxes, labels = self._dataset.boxes(index), self._dataset.labels(index)
        look = replace(predict, decode=lambda outputs: self._see(predict, outputs))
        seen: list[_Seen] = []

        def own(images: Tensor) -> Tensor:
            seen.append(look(images))
            return seen[-1].rows

        found = detect_corners(image, own, settings=settings)
        truths = []
        for scale in settings.test_scales:
            view = lay_out(image, scale, settings.fit_size, settings.coarsest_stride)
            truths.append(_in_view(boxes, labels, view, settings))
        for name in ORACLES:
            rows = [_decide(*pair, name) for pair in zip(seen, truths, strict=True)]
            self.found[name].append(self._suppressed(image, rows))
        return found

    def _suppressed(self, image: np.ndarray, rows: Sequence[Tensor]) -> Detections:
        """Goes on from decoded detections of every view as the detector does."""
        left = iter(rows)
        return detect_corners(image, lambda images: next(left), settings=self._settings)

    def _see(self, predict: Predict, outputs: Any) -> _Seen:
        maps = outputs[-1]
        tl, br = best_corners(maps, top_k=self._top_k, kernel=self._kernel)
        tl, br = (Corners(*(column.cpu() for column in corner)) for corner in (tl, br))
        rows = predict.decode(outputs).float().cpu()
        centers = maps.center_heatmap.cpu() if isinstance(maps, CentripetalMaps) else None
        return _Seen(rows, tl, br, centers)


def has_oracles(detector: Detector) -> bool:
    """Whether a detector finds corners, all of an image in the same views.

    CornerNet-Saccade does not: which crops it looks at depends on what it found before.
    """
    return isinstance(detector.infer, partial) and detector.infer.func is detect_corners


def _in_view(boxes: np.ndarray, labels: np.ndarray, view: View, settings: CornerSettings) -> _Truth:
    """Converts objects from pixels of the image to cells of a view, and of its mirror image."""
    in_size = view.canvas.shape[:2]
    out_size = [-(-side // settings.stride) for side in in_size]
    points = torch.from_numpy(boxes).double().view(-1, 2, 2).transpose(0, 1)  # [2, M, 2], (x, y)
    zoom, border, cells, pixels = (
        torch.tensor(pair[::-1], dtype=torch.float64)
        for pair in (view.scale, view.corner, out_size, in_size)
    )
    points = (points * zoom + border) * cells / pixels
    views = [points]
    if settings.test_flipped:
        mirrored = points.clone()
        mirrored[:, :, 0] = out_size[1] - points.flip(0)[:, :, 0]
        views.append(mirrored)
    width, height = (points[1] - points[0]).unbind(1)
    reach = gaussian_radius(height, width, _OVERLAP).clamp(min=_LEAST_DISTANCE)
    return _Truth(torch.stack(views).float(), torch.from_numpy(labels), reach.float())


def _decide(seen: _Seen, truth: _Truth, oracle: str) -> Tensor:
    """Detections of a view and of its mirror image by an oracle: float32 [B, n, 8] in cells."""
    if oracle == "offsets":
        return _move(seen.rows, truth)
    objects = len(truth.labels)
    rows = torch.full((len(seen.rows), objects, 8), REJECTED)
    if not objects:
        return rows
    points, scores, near = [], [], []
    for place, corner in enumerate((seen.tl, seen.br)):
        distance = _distance(truth, corner.points, corner.labels, place)  # [B, K, M]
        least, nearest = torch.where(corner.found[:, :, None], distance, torch.inf).min(1)  # [B, M]
        points.append(corner.points.gather(1, nearest[..., None].expand(-1, -1, 2)))
        scores.append(corner.scores.gather(1, nearest))
        near.append(least <= truth.reach)
    if oracle == "both":
        points = list(truth.corners.unbind(1))
    tl, br = scores
    score = (tl + br) / 2
    if seen.centers is not None:
        labels = truth.labels.expand_as(score)
        center = center_scores(seen.centers, (points[0] + points[1]) / 2, labels)
        score = ((tl * br).sqrt() * center).sqrt()
    paired = near[0] & near[1] & (points[1] >= points[0]).all(2)
    score = torch.where(paired, score, REJECTED)
    labels = truth.labels.float().expand_as(score)
    return torch.cat([*points, torch.stack([score, tl, br, labels], 2)], 2)


def _move(rows: Tensor, truth: _Truth) -> Tensor:
    """Moves the corners of detections [B, n, 8] to those of objects that they belong to."""
    rows = rows.clone()
    if not len(truth.labels):
        return rows
    for place, columns in enumerate((slice(0, 2), slice(2, 4))):
        distance = _distance(truth, rows[:, :, columns], rows[:, :, 7], place)  # [B, n, M]
        distance = torch.where(distance <= truth.reach, distance, torch.inf)
        least, nearest = distance.min(2)  # [B, n]
        moved = truth.corners[:, place].gather(1, nearest[..., None].expand(-1, -1, 2))
        near = least.isfinite()[..., None]
        rows[:, :, columns] = torch.where(near, moved, rows[:, :, columns])
    return rows


def _distance(truth: _Truth, points: Tensor, labels: Tensor, place: int) -> Tensor:
    """Distance of points [B, n, 2] from one corner of the objects, the larger of x and y.

    Infinite where the labels [B, n] are of another class: float32 [B, n, M].
    """
    distance = (points[:, :, None] - truth.corners[:, None, place]).abs().amax(3)
    return torch.where(labels[..., None] == truth.labels, distance, torch.inf)
