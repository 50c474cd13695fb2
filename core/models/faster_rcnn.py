"""Faster R-CNN on VGG16 (Ren et al. 2015, arXiv:1506.01497), from torchvision's parts.

torchvision's parts draw their training samples from PyTorch's global random numbers, which the
training loop seeds before every chunk of a step.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads

from ..config.loading import Config, Db
from ..config.parsing import parse_section
from ..data.samples import sample_unchanged
from ..data.samples.whole import sample_whole
from ..inference.regions import decode_regions, detect_regions
from ..layers.anchors import AnchorGrid
from ..layers.regions import (
    RegionHead,
    RegionPooling,
    RegionPredictor,
    RegionProposals,
    at_least_one_region,
)
from ..layers.vgg import vgg_features
from ..targets.regions import region_targets
from .detector import Detector
from .faster_rcnn_architecture import Architecture
from .imagenet import VGG16, load_imagenet_weights_
from .unused import SACCADES, refuse_unused

_MAP = "0"  # torchvision's name for the only map of a backbone

# Settings of detectors of keypoints: their sizes, crops, heatmaps and ways of detecting.
_REFUSED = (
    *("input_size", "output_sizes", "gaussian_bump", "gaussian_iou", "gaussian_radius"),
    *("rand_scales", "rand_scale_min", "rand_scale_max", "rand_scale_step"),
    *("test_scales", "test_resolution", "test_nms", "nms_algorithm", "merge_bbox"),
)
_IDLE = (
    *("rand_crop", "border", "test_flipped", "top_k", "nms_kernel"),
    *("ae_threshold", "num_dets", "weight_exp", *SACCADES),
)


class FasterRCNN(nn.Module):
    """VGG's convolutions, a network that proposes regions, and heads that classify them.

    State-dict keys are those of torchvision's ``FasterRCNN`` around the same backbone.

    Args:
        num_classes: number of object classes C.
        architecture: see there.
        db: its ``nms_threshold`` and ``max_per_image`` are for the detections.
    """

    def __init__(self, num_classes: int, architecture: Architecture, db: Db) -> None:
        super().__init__()
        channels = architecture.channels[-1][-1]
        shapes = len(architecture.anchor_scales) * len(architecture.anchor_ratios)
        self.backbone = vgg_features(architecture.channels, architecture.batch_norm)
        self.rpn = RegionProposals(
            AnchorGrid(architecture.stride, architecture.anchor_scales, architecture.anchor_ratios),
            RegionHead(channels, shapes),
            fg_iou_thresh=architecture.rpn_positive_iou,
            bg_iou_thresh=architecture.rpn_negative_iou,
            batch_size_per_image=architecture.rpn_samples,
            positive_fraction=architecture.rpn_positive_fraction,
            pre_nms_top_n={
                "training": architecture.train_pre_nms,
                "testing": architecture.test_pre_nms,
            },
            post_nms_top_n={
                "training": architecture.train_post_nms,
                "testing": architecture.test_post_nms,
            },
            nms_thresh=architecture.rpn_nms_threshold,
        )
        self.rpn.min_size = architecture.rpn_min_size
        self.roi_heads = RoIHeads(
            RegionPooling(
                _MAP, architecture.stride, architecture.pooled_size, architecture.sampling_ratio
            ),
            TwoMLPHead(channels * architecture.pooled_size**2, architecture.head_channels),
            RegionPredictor(architecture.head_channels, num_classes + 1),
            fg_iou_thresh=architecture.roi_iou,
            bg_iou_thresh=architecture.roi_iou,
            batch_size_per_image=architecture.roi_samples,
            positive_fraction=architecture.roi_positive_fraction,
            bbox_reg_weights=None,
            score_thresh=architecture.min_score,
            nms_thresh=db.nms_threshold,
            detections_per_img=db.max_per_image,
        )

    def forward(
        self, images: Tensor, targets: list[dict[str, Any]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Gives the losses if there are targets, else, in evaluation mode, the detections.

        Args:
            images: [B, 3, height, width], normalised.
            targets: see :func:`core.targets.regions.region_targets`.

        Returns:
            ``loss_objectness``, ``loss_rpn_box_reg``, ``loss_classifier`` and ``loss_box_reg``; or
            of each picture ``boxes`` float32 [n, 4], ``scores`` [n], best first, ``labels`` [n].
        """
        if targets is None:
            assert not self.training, "training needs targets"
            sizes = [(images.shape[2], images.shape[3])] * len(images)
        else:
            sizes = [target["size"] for target in targets]
            height, width = (max(sides) for sides in zip(*sizes, strict=True))
            images = without_padding(images[:, :, :height, :width], sizes)
        features = {_MAP: self.backbone(images).float()}
        pictures = ImageList(images, sizes)
        if targets is None:
            regions, _ = self.rpn(pictures, features)
            return self.roi_heads(features, regions, sizes)[0]
        with self._sampling(images.device):
            regions, losses = self.rpn(pictures, features, targets)
            regions = at_least_one_region(regions, sizes)
            return {**losses, **self.roi_heads(features, regions, sizes, targets)[1]}

    @contextlib.contextmanager
    def _sampling(self, device: torch.device) -> Iterator[None]:
        """Within it, torchvision's parts give losses in evaluation mode too.

        A validation then draws its samples from a seed of its own: it repeats, and the training's
        draws do not depend on it.
        """
        if self.training:
            yield
            return
        parts = (self.rpn, self.roi_heads)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            for part in parts:
                part.train()
            try:
                yield
            finally:
                for part in parts:
                    part.eval()


def without_padding(images: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """Images [B, 3, h, w] with 0, the mean colour, beside their pictures of ``sizes``."""
    if len(set(sizes)) == 1:
        return images
    padding = torch.ones_like(images[:, :1], dtype=torch.bool)
    for picture, (height, width) in zip(padding, sizes, strict=True):
        picture[:, :height, :width] = False
    return images.masked_fill(padding, 0)


def given_losses(losses: dict[str, Tensor], targets: Any) -> dict[str, Tensor]:
    """The loss terms that the network gave; ``targets`` were for it."""
    return losses


def build(config: Config, num_classes: int) -> Detector:
    """Builds Faster R-CNN with fresh weights; errors as :func:`core.models.build`.

    Of the config's ``db`` section ``data_aug``, ``rand_color``, ``lighting``, ``nms_threshold`` and
    ``max_per_image`` are used: pictures are neither cropped nor detected at several scales, and the
    suppression is torchvision's. Other settings are refused, or get a notice.
    """
    refuse_unused(config, _REFUSED, _IDLE)
    where, db = f"{config.path}: model", config.db
    architecture = parse_section(Architecture, config.model, where)
    architecture.check(where)
    network = FasterRCNN(num_classes, architecture, db)
    sides: dict[str, Any] = {
        "shorter_side": architecture.shorter_side,
        "longer_side": architecture.longer_side,
        "least_side": architecture.stride,
    }
    sample = partial(sample_whole, **sides, color=db.rand_color, lighting=db.lighting)
    weights = architecture.backbone_weights
    return Detector(
        network=network,
        sample=sample if db.data_aug else partial(sample_unchanged, sample),
        targets=region_targets,
        losses=given_losses,
        decode=decode_regions,
        infer=partial(detect_regions, **sides),
        class_head_keys=("roi_heads.box_predictor.",),
        network_inputs=lambda targets: (targets,),
        load_pretrained_=(
            partial(load_imagenet_weights_, network, weights, f"{where}.backbone_weights", VGG16)
            if weights is not None
            else None
        ),
        compilable=network.backbone,
    )
