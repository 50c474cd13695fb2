"""What a detector of corners would reach if its corners were paired, or placed, by the truth.

The corners themselves stay the detector's: an object is not found if one of its corners is too far
off, or not among the ``db.top_k`` best. Pairs by the truth are pairs of objects only, so that false
detections are gone as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cpools_ext.corners import REJECTED, Corners, split_kinds

from ..config.loading import Config
from ..data.coco import CocoDetection
from ..decode.corners import best_corners, center_scores
from ..inference.corners import CornerSettings, View, detect_corners, lay_out
from ..inference.requests import CanvasRequest, Inference
from ..inference.saccade import SaccadeRound
from ..models.detector import Detector
from ..structures import NO_DETECTIONS, CentripetalMaps, Detections
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


class _Seen(NamedTuple):
    """What a network gives for one view: its own detections, and its corners.

    Attributes:
        rows: float32 [B, n, 8], decoded as the detector does.
        tl, br: best corners.
        centers: the map of centres that confirms pairs, logits [B, C, H, W], or none; with it,
            corners score their geometric mean, not the arithmetic one.
    """

    rows: Tensor
    tl: Corners
    br: Corners
    centers: tuple[Tensor, ...]


class Oracles:
    """A detector of corners that finds objects by the oracles too, in the same pass.

    Args:
        detector: a detector of corners (:func:`has_oracles`).
        dataset: dataset with the truth.
        config: the detector's config.

    Attributes:
        detector: the detector with ``infer`` and ``decode`` that look for the oracles' objects too.
        found: detections of every image of the dataset by each of :data:`ORACLES`.
    """

    def __init__(self, detector: Detector, dataset: CocoDetection, config: Config) -> None:
        assert isinstance(detector.infer, partial)
        self._settings: CornerSettings = detector.infer.keywords["settings"]
        self._decode, self._dataset, self._next = detector.decode, dataset, 0
        self.detector = replace(detector, infer=self.infer, decode=self.decode)
        self._top_k, self._kernel = config.db.top_k, config.db.nms_kernel
        self.found = {name: [NO_DETECTIONS] * len(dataset) for name in ORACLES}

    def infer(self, image: np.ndarray, trace: list[SaccadeRound] | None = None) -> Inference:
        """Finds the objects of the next image, as :func:`core.inference.corners.detect_corners`.

        It must be called for the images of the dataset in their order, each once.
        """
        index, self._next = self._next, self._next + 1
        return self._infer(image, index)

    def decode(self, outputs: Any) -> _Seen:
        """Decodes the network's outputs, and keeps what the oracles need of them."""
        maps, corners = best_corners(outputs[-1], top_k=self._top_k, kernel=self._kernel)
        centers = (maps.center_heatmap,) if isinstance(maps, CentripetalMaps) else ()
        return _Seen(self._decode(outputs), *split_kinds(corners), centers)

    def _infer(self, image: np.ndarray, index: int) -> Inference:
        settings = self._settings
        seen: list[_Seen] = []
        truths: list[_Truth] = []
        boxes, labels = self._dataset.boxes(index), self._dataset.labels(index)
        for scale in settings.test_scales:
            view = lay_out(image, scale, settings.fit_size, settings.coarsest_stride)
            truths.append(_in_view(boxes, labels, view, settings))
            seen.append((yield CanvasRequest(view.canvas, settings.test_flipped)))
        for name in ORACLES:
            rows = [_decide(*pair, name) for pair in zip(seen, truths, strict=True)]
            self.found[name][index] = self._suppressed(image, rows)
        return self._suppressed(image, [each.rows for each in seen])

    def _suppressed(self, image: np.ndarray, rows: Sequence[Tensor]) -> Detections:
        """Goes on from decoded detections of every view as the detector does."""
        steps = detect_corners(image, settings=self._settings)
        next(steps)
        try:
            for each in rows:
                steps.send(each)
        except StopIteration as end:
            found: Detections = end.value
        return found


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
    for heatmap in seen.centers:
        labels = truth.labels.expand_as(score)
        center = center_scores(heatmap, (points[0] + points[1]) / 2, labels)
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
