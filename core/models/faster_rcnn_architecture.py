"""The ``model`` section of Faster R-CNN's configs (Ren et al. 2015, arXiv:1506.01497)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..config.errors import UserError


@dataclass(frozen=True)
class Architecture:
    """The ``model`` section of a config; by default VGG16 and the paper's numbers.

    Attributes:
        channels: of the backbone's convolutions, block by block; each block but the first halves
            the size, and so their number makes the stride.
        batch_norm: whether a batch norm follows each of them.
        backbone_weights: file of torchvision's VGG16 weights, for the convolutions and the two
            linear layers; None: training starts from scratch.
        shorter_side, longer_side: pixels; see :func:`core.data.samples.whole.fitted_size`.
        anchor_scales, anchor_ratios: see :func:`core.layers.anchors.base_anchors`.
        rpn_positive_iou, rpn_negative_iou: overlap with an object from which on an anchor is
            trained as one, and below which as none; the best anchors of an object always are.
        rpn_samples, rpn_positive_fraction: anchors a picture that are trained, and the most of
            them that are positive.
        rpn_nms_threshold: overlap above which a proposal suppresses another.
        rpn_min_size: pixels; a proposal with a shorter side is dropped.
        train_pre_nms, train_post_nms: best proposals before and after the suppression, in training,
        test_pre_nms, test_post_nms: and in detection.
        pooled_size: cells a side of a proposal's features; sampling_ratio: samples a side of each.
        head_channels: of the two linear layers.
        roi_iou: overlap with an object from which on a proposal is trained as one.
        roi_samples, roi_positive_fraction: as ``rpn_samples``, of proposals.
        min_score: of a detection.
    """

    channels: tuple[tuple[int, ...], ...] = (
        (64, 64),
        (128, 128),
        (256, 256, 256),
        (512, 512, 512),
        (512, 512, 512),
    )
    batch_norm: bool = False
    backbone_weights: str | None = None
    shorter_side: int = 600
    longer_side: int = 1000
    anchor_scales: tuple[float, ...] = (8.0, 16.0, 32.0)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rpn_positive_iou: float = 0.7
    rpn_negative_iou: float = 0.3
    rpn_samples: int = 256
    rpn_positive_fraction: float = 0.5
    rpn_nms_threshold: float = 0.7
    rpn_min_size: float = 16.0
    train_pre_nms: int = 12000
    train_post_nms: int = 2000
    test_pre_nms: int = 6000
    test_post_nms: int = 300
    pooled_size: int = 7
    sampling_ratio: int = 2
    head_channels: int = 4096
    roi_iou: float = 0.5
    roi_samples: int = 128
    roi_positive_fraction: float = 0.25
    min_score: float = 0.05

    @property
    def stride(self) -> int:
        """Pixels a cell of the map."""
        return int(2 ** (len(self.channels) - 1))

    def check(self, where: str) -> None:
        """Refuses numbers from which no network can be made.

        Args:
            where: file and section, for messages.

        Raises:
            UserError: a number is out of its range.
        """
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{where}.{name} {getattr(self, name)} must be from 0 to 1")
        for name in _NUMBERS:
            if _least(getattr(self, name)) <= 0:
                raise UserError(f"{where}.{name} must hold numbers above 0")
        if self.rpn_negative_iou > self.rpn_positive_iou:
            raise UserError(
                f"{where}.rpn_negative_iou {self.rpn_negative_iou} must not be above "
                f"{where}.rpn_positive_iou {self.rpn_positive_iou}"
            )
        if self.shorter_side > self.longer_side or self.shorter_side < self.stride:
            raise UserError(
                f"{where}.shorter_side {self.shorter_side} must be from {self.stride}, a cell of "
                f"the map, to {where}.longer_side {self.longer_side}"
            )


# By their ranges: what is a part of a whole, and what is above 0. The others are no numbers.
_SHARES = (
    *("rpn_positive_iou", "rpn_negative_iou", "rpn_positive_fraction", "rpn_nms_threshold"),
    *("roi_iou", "roi_positive_fraction", "min_score"),
)
_NUMBERS = tuple(
    name
    for name in vars(Architecture())
    if name not in {*_SHARES, "batch_norm", "backbone_weights"}
)


def _least(value: float | Sequence[Any]) -> float:
    """The least number in nested lists, or 0 for an empty one."""
    return min(map(_least, value), default=0) if isinstance(value, Sequence) else value
