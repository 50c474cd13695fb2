"""Soft-NMS as an operator: schema, fake kernel, and the function that calls it."""

import torch
from torch import Tensor
from torch.library import Library, register_fake

from cpools_ext import native, soft_nms_reference

METHODS = {"nms": 0, "linear_soft_nms": 1, "exp_soft_nms": 2}  # numbers of the operator's schema

_library = Library("cpools_ext", "FRAGMENT")
_library.define(
    "soft_nms(Tensor detections, Tensor labels, int method, float nms_threshold, float sigma, "
    "float score_threshold, float? weight_exp, bool swap_scores) -> (Tensor, Tensor, Tensor)"
)


def soft_nms(
    detections: Tensor,
    labels: Tensor,
    *,
    method: str,
    nms_threshold: float = 0.3,
    sigma: float = 0.5,
    score_threshold: float = 0.001,
    weight_exp: float | None = None,
    swap_scores: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Lowers the scores of boxes that overlap a better one of their class (Soft-NMS, section 3).

    Within a class boxes are selected by score, one after the other. With an overlap IoU (widths
    count pixels, ``x1 - x0 + 1``), the score of the lower box is multiplied by a factor f: 0 or
    1 - IoU where IoU > nms_threshold (``nms``, ``linear_soft_nms``; eq. 1 and 2), or
    ``exp(-IoU^2 / sigma)`` (``exp_soft_nms``; eq. 3).

    With ``weight_exp``, a selected box becomes the weighted average of itself and the boxes that it
    overlaps (the multi-scale test of CornerNet). Top-left corners are weighted by their top-left
    scores and bottom-right corners by their bottom-right scores; the weights of an overlapping box
    are multiplied by ``(1 - f)^weight_exp``.

    Args:
        detections: Tensor[n, 7], float32: box, score, score of the top-left and of the bottom-right
            corner. From a GPU they are copied to the CPU, and the results back.
        labels: Tensor[n], int64.
        method: ``"nms"``, ``"linear_soft_nms"`` or ``"exp_soft_nms"``.
        nms_threshold: IoU above which ``nms`` and ``linear_soft_nms`` lower a score.
        sigma: divisor of IoU^2 in ``exp_soft_nms``.
        score_threshold: a box whose score is lowered below it is dropped.
        weight_exp: exponent of an overlapping box's weight in merging: the higher, the less a box
            with little overlap counts. None: boxes are not merged.
        swap_scores: True: a box that changes its row takes its corner scores along. False: corner
            scores stay in their row, as in the reference's merging.

    Returns:
        rows: Tensor[n, 7], classes ascending; within a class the kept rows in the order of
            selection, then the stale rows of dropped boxes as the reference leaves them.
        labels: Tensor[n], the class of each row.
        kept: bool Tensor[n], True for the rows that are kept.

    Raises:
        ValueError: unknown method, wrong dtypes or shapes.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} must be one of {', '.join(METHODS)}")
    if detections.dtype != torch.float32 or detections.dim() != 2 or detections.size(1) != 7:
        raise ValueError(
            f"soft-NMS takes detections float32 [n, 7], "
            f"not {detections.dtype} {tuple(detections.shape)}"
        )
    if labels.dtype != torch.int64 or labels.shape != detections.shape[:1]:
        raise ValueError(
            f"soft-NMS takes an int64 label for each of {detections.size(0)} detections, "
            f"not {labels.dtype} {tuple(labels.shape)}"
        )
    return torch.ops.cpools_ext.soft_nms(
        detections.detach(),
        labels,
        METHODS[method],
        nms_threshold,
        sigma,
        score_threshold,
        weight_exp,
        swap_scores,
    )


def _soft_nms_fallback(
    detections: Tensor,
    labels: Tensor,
    method: int,
    nms_threshold: float,
    sigma: float,
    score_threshold: float,
    weight_exp: float | None,
    swap_scores: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Runs the NumPy twin on the CPU; on other devices, copies to the CPU and runs its operator."""
    settings = (method, nms_threshold, sigma, score_threshold, weight_exp, swap_scores)
    device = detections.device
    if device.type != "cpu":
        rows, labels, kept = torch.ops.cpools_ext.soft_nms(
            detections.cpu(), labels.cpu(), *settings
        )
        return rows.to(device), labels.to(device), kept.to(device)
    results = soft_nms_reference.soft_nms(detections.detach().numpy(), labels.numpy(), *settings)
    rows, labels, kept = (torch.from_numpy(result) for result in results)
    return rows, labels, kept


def _soft_nms_fake(
    detections: Tensor, labels: Tensor, *settings: float | bool | None
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.empty(detections.shape, dtype=detections.dtype, device=detections.device),
        torch.empty(labels.shape, dtype=labels.dtype, device=labels.device),
        torch.empty(labels.shape, dtype=torch.bool, device=labels.device),
    )


_library.impl("soft_nms", _soft_nms_fallback, "CompositeExplicitAutograd")
register_fake("cpools_ext::soft_nms", _soft_nms_fake, lib=_library)
native.load()
