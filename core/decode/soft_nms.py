"""Non-maximum suppression of the detections of an image, and the choice of the best."""

from typing import Literal

import numpy as np
import torch

from cpools_ext.soft_nms import soft_nms

from ..structures import Detections

Method = Literal["nms", "linear_soft_nms", "exp_soft_nms"]

SCORE = 4  # column of the score; the corner scores follow it


def suppress(
    detections: np.ndarray,
    labels: np.ndarray,
    *,
    method: Method,
    nms_threshold: float,
    sigma: float = 0.5,
    merge: bool = False,
    weight_exp: float = 8,
    keep_stale: bool = False,
    swap_scores: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Suppresses the detections of an image, each class by itself.

    Args:
        detections: float32 [n, 7]: box, score, score of the top-left and the bottom-right corner.
        labels: int64 [n].
        method, nms_threshold, sigma: as for :func:`cpools_ext.soft_nms.soft_nms`.
        merge: merge a selected box with those that it overlaps.
        weight_exp: exponent of an overlapping box's weight in merging; the higher, the less a box
            with little overlap counts.
        keep_stale: keep the stale rows of suppressed detections, as the reference's plain
            inference does.
        swap_scores: True: a box that changes its row takes its corner scores along. False: corner
            scores stay in their row, as in the reference's merging.

    Returns:
        rows: float32 [m, 7], classes ascending, in the order of selection within a class.
        labels: int64 [m].
    """
    results = soft_nms(
        torch.from_numpy(np.array(detections, np.float32)),
        torch.from_numpy(np.array(labels, np.int64)),
        method=method,
        nms_threshold=nms_threshold,
        sigma=sigma,
        weight_exp=weight_exp if merge else None,
        swap_scores=swap_scores,
    )
    rows, found, kept = (result.numpy() for result in results)
    return (rows, found) if keep_stale else (rows[kept], found[kept])


def best_detections(rows: np.ndarray, labels: np.ndarray, max_per_image: int) -> Detections:
    """Makes detections of the rows that are left after suppression, best first.

    Args:
        rows: float32 [m, 5 or more]: box, score.
        labels: int64 [m].
        max_per_image: detections to keep; more where the last ones have equal scores.
    """
    kept = np.flatnonzero(keep_best(rows[:, SCORE], max_per_image))
    kept = kept[np.argsort(-rows[kept, SCORE], kind="stable")]
    return Detections(rows[kept, :4], rows[kept, SCORE], labels[kept])


def keep_best(scores: np.ndarray, max_per_image: int) -> np.ndarray:
    """Selects the best detections of an image.

    Args:
        scores: [n].
        max_per_image: detections to keep; more where the last ones have equal scores.

    Returns:
        bool [n], true for the detections to keep.
    """
    if len(scores) <= max_per_image:
        return np.ones(len(scores), bool)
    return scores >= np.partition(scores, -max_per_image)[-max_per_image]
