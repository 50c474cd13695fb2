"""Parts of Faster R-CNN that differ from torchvision's (Ren et al. 2015, arXiv:1506.01497).

What comes out of the convolutions and linear layers is float32, whatever they ran in: coordinates
of boxes are too coarse in bfloat16.
"""

from typing import Any

from torch import Tensor
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign, box_iou

BACKGROUND = 0  # the label of torchvision's detectors for regions without an object
_IGNORED = -1


class RegionProposals(RegionProposalNetwork):
    """torchvision's, but that anchors which leave the picture are not trained (section 3.1.3)."""

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Any]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Labels the anchors of every picture.

        Anchors outside are removed before the match, so that the best of those inside stands for
        an object. A picture into which no anchor fits keeps all of them.

        Args:
            anchors: float32 [N, 4] of each picture.
            targets: of each picture ``boxes`` float32 [n, 4] and ``size``, (height, width).

        Returns:
            labels: float32 [N] of each picture: 1 object, 0 none, -1 not trained.
            matched: float32 [N, 4] of each picture, the objects' boxes where the label is 1.
        """
        labels, matched = [], []
        for boxes, target in zip(anchors, targets, strict=True):
            inside = anchors_inside(boxes, target["size"])
            inside |= ~inside.any()
            # An object that no anchor touches would have all of these for its best ones.
            reached = box_iou(target["boxes"], boxes[inside]).amax(1) > 0
            (inner_labels,), (inner_matched,) = super().assign_targets_to_anchors(
                [boxes[inside]], [{"boxes": target["boxes"][reached]}]
            )
            labels.append(inner_labels.new_full((len(boxes),), _IGNORED))
            labels[-1][inside] = inner_labels
            matched.append(boxes.clone())
            matched[-1][inside] = inner_matched
        return labels, matched


def anchors_inside(anchors: Tensor, size: tuple[int, int]) -> Tensor:
    """Which anchors [N, 4] lie within a picture of ``size`` (height, width): bool [N]."""
    height, width = size
    corners = anchors.new_tensor([width, height])
    return (anchors[:, :2] >= 0).all(1) & (anchors[:, 2:] <= corners).all(1)


def at_least_one_region(regions: list[Tensor], sizes: list[tuple[int, int]]) -> list[Tensor]:
    """Gives a picture without regions [0, 4] itself as one, for a loss that is a mean."""
    return [
        boxes if len(boxes) else boxes.new_tensor([[0, 0, width, height]])
        for boxes, (height, width) in zip(regions, sizes, strict=True)
    ]


class RegionPooling(MultiScaleRoIAlign):
    """RoIAlign on one map; torchvision's guesses the map's stride from its first picture.

    Args:
        name: of the map.
        stride: pixels a cell of the map.
        size: cells a side of what is pooled.
        sampling_ratio: samples a side of each of them.
    """

    def __init__(self, name: str, stride: int, size: int, sampling_ratio: int) -> None:
        super().__init__([name], size, sampling_ratio)
        self.stride = stride

    def forward(
        self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        """Pools regions of the map: [all regions, channels, size, size].

        Args:
            x: maps [B, channels, H, W] by name.
            boxes: float32 [n, 4] of each picture, in pixels.
            image_shapes: sizes of the pictures; not used.
        """
        height, width = x[self.featmap_names[0]].shape[2:]
        return super().forward(x, boxes, [(height * self.stride, width * self.stride)])


class RegionHead(RPNHead):
    """torchvision's convolutions on the map; their outputs in float32."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Logits [B, n, H, W] and box codes [B, 4n, H, W] of the n anchors a cell of each map."""
        logits, codes = super().forward(x)
        return [value.float() for value in logits], [value.float() for value in codes]


class RegionPredictor(FastRCNNPredictor):
    """torchvision's last linear layers; their outputs in float32."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [n, C + 1] and box codes [n, 4 (C + 1)] of features [n, channels]."""
        logits, codes = super().forward(x)
        return logits.float(), codes.float()
