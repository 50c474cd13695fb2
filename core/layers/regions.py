"""Parts of Faster R-CNN that differ from torchvision's (Ren et al. 2015, arXiv:1506.01497).

The outputs of the convolutions and linear layers are float32, whatever dtype they ran in:
coordinates of boxes are too coarse in bfloat16.
"""

from typing import Any

from torch import Tensor
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign, box_iou

BACKGROUND = 0  # the label of torchvision's detectors for regions without an object
_IGNORED = -1


class RegionProposals(RegionProposalNetwork):
    """torchvision's region proposals, but anchors that leave the image are not trained.

    Ren et al. 2015, section 3.1.3.
    """

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Any]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Labels the anchors of every image.

        Anchors outside are removed before the match, so that an object is matched with the best of
        those inside. An image into which no anchor fits keeps all of them.

        Args:
            anchors: float32 [N, 4] for each image.
            targets: for each image ``boxes`` float32 [n, 4] and ``size``, (height, width).

        Returns:
            labels: float32 [N] for each image: 1 object, 0 none, -1 not trained.
            matched: float32 [N, 4] for each image, the objects' boxes where the label is 1.
        """
        labels, matched = [], []
        for boxes, target in zip(anchors, targets, strict=True):
            inside = anchors_inside(boxes, target["size"])
            inside |= ~inside.any()
            # An object that no anchor touches would count all of them as its best ones.
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
    """Mask of the anchors [N, 4] within an image of ``size`` (height, width): bool [N]."""
    height, width = size
    corners = anchors.new_tensor([width, height])
    return (anchors[:, :2] >= 0).all(1) & (anchors[:, 2:] <= corners).all(1)


def at_least_one_region(regions: list[Tensor], sizes: list[tuple[int, int]]) -> list[Tensor]:
    """Replaces empty regions [0, 4] by one, the whole image: the loss is a mean over regions."""
    return [
        boxes if len(boxes) else boxes.new_tensor([[0, 0, width, height]])
        for boxes, (height, width) in zip(regions, sizes, strict=True)
    ]


class RegionPooling(MultiScaleRoIAlign):
    """RoIAlign on one map; torchvision's module guesses the map's stride from its first image.

    Args:
        name: name of the map.
        stride: pixels per cell of the map.
        size: side of the pooled features, in cells.
        sampling_ratio: number of samples along each side of a cell.
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
            boxes: float32 [n, 4] for each image, in pixels.
            image_shapes: sizes of the images; not used.
        """
        height, width = x[self.featmap_names[0]].shape[2:]
        return super().forward(x, boxes, [(height * self.stride, width * self.stride)])


class RegionHead(RPNHead):
    """torchvision's convolutions on the map, with outputs in float32."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Computes logits [B, n, H, W] and box codes [B, 4n, H, W] for n anchors per cell."""
        logits, codes = super().forward(x)
        return [value.float() for value in logits], [value.float() for value in codes]


class RegionPredictor(FastRCNNPredictor):
    """torchvision's last linear layers, with outputs in float32."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Computes logits [n, C + 1] and box codes [n, 4 (C + 1)] of features [n, channels]."""
        logits, codes = super().forward(x)
        return logits.float(), codes.float()
