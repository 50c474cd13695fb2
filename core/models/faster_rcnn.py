"""Faster R-CNN (Ren et al. 2015, arXiv:1506.01497), from torchvision's parts.

It is on the convolutions of VGG16, as published, or on one map of a pyramid over another backbone.

torchvision's parts draw their training samples from PyTorch's global random numbers, which the
training loop seeds before every chunk of a step.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads

from ..config.errors import UserError
from ..config.loading import Config, Db
from ..config.parsing import parse_section
from ..data.samples import sample_unchanged
from ..data.samples.whole import sample_whole
from ..inference.regions import decode_regions, detect_regions
from ..layers.anchors import AnchorGrid
from ..layers.backbones import NAMES, Backbone
from ..layers.pyramid import PyramidFeatures, pyramid_maps
from ..layers.regions import (
    RegionHead,
    RegionPooling,
    RegionPredictor,
    RegionProposals,
    at_least_one_region,
)
from ..layers.vgg import vgg_features
from ..losses.focal import FocalLoss, focal_loss
from ..targets.regions import region_targets
from .architecture import SACCADE_SETTINGS, UNUSED_WITH, refuse_unused, require_backbone
from .detector import Detector
from .imagenet import VGG16, load_imagenet_weights_
from .pyramid import backbone_of, on_backbone

_VGG = "vgg"  # the ``model.backbone`` without a pyramid
_MAP = "0"  # torchvision's name for the only map of a backbone

# ``db`` settings of detectors of keypoints: sizes, crops, heatmaps and inference.
_REFUSED = (
    *("input_size", "output_sizes", "gaussian_bump", "gaussian_iou", "gaussian_radius"),
    *("rand_scales", "rand_scale_min", "rand_scale_max", "rand_scale_step"),
    *("test_scales", "test_resolution", "test_nms", "nms_algorithm", "merge_bbox"),
    *("sampling", "min_visible", "regression_window"),
)
_IDLE = (
    *UNUSED_WITH["crop"],
    *("rand_crop", "border", "test_flipped", "top_k", "nms_kernel"),
    *("ae_threshold", "num_dets", "weight_exp", *SACCADE_SETTINGS),
)


@dataclass(frozen=True)
class Regions(ABC):
    """What the ``model`` section of a config has with any backbone; by default the paper's numbers.

    Attributes:
        backbone: the ``model.backbone`` that chooses the section.
        backbone_weights: ImageNet weights that training starts from; None: from scratch. With
            ``vgg`` a file of torchvision's VGG16 weights, for the convolutions and the two linear
            layers; else as :func:`.pretrained.load_backbone_` takes them, for the backbone alone.
        shorter_side: length to which an image's shorter side is scaled, in pixels.
        longer_side: largest length of its longer side, in pixels; a longer image is scaled to it.
        anchor_scales: square roots of the anchors' areas, in strides.
        anchor_ratios: heights of the anchors by their widths.
        rpn_positive_iou: least overlap with an object of an anchor that is trained as an object;
            the best anchors of an object always are.
        rpn_negative_iou: overlap with all objects below which an anchor is trained as background.
        rpn_samples: number of anchors per image that are trained.
        rpn_positive_fraction: largest fraction of these that are trained as objects.
        rpn_nms_threshold: overlap above which a proposal suppresses another.
        rpn_min_size: least length of a proposal's sides, in pixels; others are dropped.
        train_pre_nms, train_post_nms: number of best proposals that are kept before and after the
            suppression, in training.
        test_pre_nms, test_post_nms: the same in detection.
        pooled_size: side of a proposal's features, in cells.
        sampling_ratio: number of samples along each side of these cells.
        head_channels: channels of the two linear layers.
        roi_iou: least overlap with an object of a proposal that is trained as an object.
        roi_samples: number of proposals per image that are trained.
        roi_positive_fraction: largest fraction of these that are trained as objects.
        min_score: lowest score of a detection.
    """

    backbone: str = _VGG
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
    @abstractmethod
    def stride(self) -> int:
        """Pixels per cell of the map."""

    def check(self, where: str) -> None:
        """Refuses numbers from which no network can be made.

        Args:
            where: file and section, for messages.

        Raises:
            UserError: a number is out of its range.
        """
        for name in _FRACTIONS:
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{where}.{name} {getattr(self, name)} must be from 0 to 1")
        for name, value in vars(self).items():
            if name not in (*_FRACTIONS, *_OTHERS) and _least(value) <= 0:
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


@dataclass(frozen=True)
class Architecture(Regions):
    """The ``model`` section of a config on the convolutions of a VGG; by default VGG16.

    Attributes:
        channels: channels of the backbone's convolutions, block by block; each block but the first
            halves the size, so their number determines the stride.
        batch_norm: True: a batch norm follows each convolution.
    """

    channels: tuple[tuple[int, ...], ...] = (
        (64, 64),
        (128, 128),
        (256, 256, 256),
        (512, 512, 512),
        (512, 512, 512),
    )
    batch_norm: bool = False

    @property
    def stride(self) -> int:
        """Pixels per cell of the map."""
        return int(2 ** (len(self.channels) - 1))


@dataclass(frozen=True)
class RegionPyramid(Regions):
    """The ``model`` section of a config on a pyramid over another backbone.

    Attributes:
        stride: pixels per cell of the map. The anchors' sizes are in strides.
        pyramid_channels: channels of the map.
    """

    stride: Literal[8, 16] = 16
    pyramid_channels: int = 256

    def check(self, where: str) -> None:
        """Refuses numbers as :meth:`Regions.check`, and backbones that there are not."""
        super().check(where)
        require_backbone(self.backbone, (_VGG, *NAMES), where)


# Fields from 0 to 1; those of numbers are above 0.
_FRACTIONS = (
    *("rpn_positive_iou", "rpn_negative_iou", "rpn_positive_fraction", "rpn_nms_threshold"),
    *("roi_iou", "roi_positive_fraction", "min_score"),
)
_OTHERS = ("backbone", "backbone_weights", "batch_norm")  # fields that are not numbers


def _least(value: float | Sequence[Any]) -> float:
    """Smallest number in nested lists, or 0 for an empty one."""
    return min(map(_least, value), default=0) if isinstance(value, Sequence) else value


class FasterRCNN(nn.Module):
    """A backbone, a network that proposes regions, and heads that classify them.

    State-dict keys are those of torchvision's ``FasterRCNN`` around the same backbone.

    Args:
        num_classes: number of object classes C.
        architecture: widths, anchors and numbers of samples.
        db: section with ``nms_threshold`` and ``max_per_image``, for the detections.
        backbone: the backbone below the pyramid; None: VGG's convolutions, without a pyramid.
    """

    def __init__(
        self,
        num_classes: int,
        architecture: Architecture | RegionPyramid,
        db: Db,
        backbone: Backbone | None = None,
    ) -> None:
        super().__init__()
        shapes = len(architecture.anchor_scales) * len(architecture.anchor_ratios)
        self.backbone: nn.Module
        self.pyramid: PyramidFeatures | None = None
        if isinstance(architecture, RegionPyramid):
            assert backbone is not None
            channels = architecture.pyramid_channels
            self.backbone = backbone
            self.pyramid = PyramidFeatures(backbone.channels, architecture.stride, channels)
        else:
            channels = architecture.channels[-1][-1]
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
        """Computes the losses if there are targets, else, in evaluation mode, the detections.

        Args:
            images: [B, 3, height, width], normalised.
            targets: result of :func:`core.targets.regions.region_targets`.

        Returns:
            ``loss_objectness``, ``loss_rpn_box_reg``, ``loss_classifier`` and ``loss_box_reg``; or
            for each image ``boxes`` float32 [n, 4], ``scores`` [n], best first, ``labels`` [n].
        """
        if targets is None:
            assert not self.training, "training needs targets"
            sizes = [(images.shape[2], images.shape[3])] * len(images)
        else:
            sizes = [target["size"] for target in targets]
            height, width = (max(sides) for sides in zip(*sizes, strict=True))
            images = without_padding(images[:, :, :height, :width], sizes)
        features = {_MAP: self.feature_map(images).float()}
        image_list = ImageList(images, sizes)
        if targets is None:
            regions, _ = self.rpn(image_list, features)
            return self.roi_heads(features, regions, sizes)[0]
        with self._sampling(images.device):
            regions, losses = self.rpn(image_list, features, targets)
            regions = at_least_one_region(regions, sizes)
            return {**losses, **self.roi_heads(features, regions, sizes, targets)[1]}

    def feature_map(self, images: Tensor) -> Tensor:
        """Computes the map [B, channels, H, W] of images [B, 3, height, width]."""
        if self.pyramid is None:
            features: Tensor = self.backbone(images)
            return features
        (stack,) = pyramid_maps(self.backbone, self.pyramid, images)
        return stack.features

    @contextlib.contextmanager
    def _sampling(self, device: torch.device) -> Iterator[None]:
        """Context in which torchvision's parts give losses, in evaluation mode too.

        A validation draws its samples from a fixed seed: its result repeats, and the draws of the
        training do not depend on it.
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
    """Sets pixels of images [B, 3, h, w] beyond their ``sizes`` to 0, the mean colour."""
    if len(set(sizes)) == 1:
        return images
    padding = torch.ones_like(images[:, :1], dtype=torch.bool)
    for rows, (height, width) in zip(padding, sizes, strict=True):
        rows[:, :height, :width] = False
    return images.masked_fill(padding, 0)


def given_losses(
    losses: dict[str, Tensor], targets: Any, *, focal: FocalLoss = focal_loss
) -> dict[str, Tensor]:
    """Returns the loss terms, which the network computed itself from the targets."""
    return losses


def build(config: Config, num_classes: int) -> Detector:
    """Builds Faster R-CNN with fresh weights; errors as :func:`core.models.build`.

    Of the config's ``db`` section ``data_aug``, ``rand_color``, ``lighting``, ``nms_threshold`` and
    ``max_per_image`` are used: images are neither cropped nor tested at several scales, and the
    suppression is torchvision's. Other settings are refused, or get a notice.
    """
    refuse_unused(config, _REFUSED, _IDLE)
    where, db = f"{config.path}: model", config.db
    architecture: Architecture | RegionPyramid
    if config.model.get("backbone", _VGG) == _VGG:
        architecture = parse_section(Architecture, config.model, where)
    else:
        architecture = parse_section(RegionPyramid, config.model, where)
    architecture.check(where)
    sides: dict[str, Any] = {
        "shorter_side": architecture.shorter_side,
        "longer_side": architecture.longer_side,
        "least_side": architecture.stride,
    }
    sample = partial(sample_whole, **sides, color=db.rand_color, lighting=db.lighting)
    backbone = None
    if isinstance(architecture, RegionPyramid):
        backbone = backbone_of(config, architecture)
    network = FasterRCNN(num_classes, architecture, db, backbone)
    detector = Detector(
        network=network,
        sample=sample if db.data_aug else partial(sample_unchanged, sample),
        targets=region_targets,
        losses=given_losses,
        decode=decode_regions,
        infer=partial(detect_regions, **sides),
        class_head_keys=("roi_heads.box_predictor.",),
        network_inputs=lambda targets: (targets,),
        static_step=False,
        compilable=network.backbone,
    )
    if backbone is not None:
        return on_backbone(detector, config, architecture, backbone)
    weights = architecture.backbone_weights
    if weights is None:
        return detector
    key = f"{where}.backbone_weights"
    load = partial(load_imagenet_weights_, network, weights, key, VGG16)
    return replace(detector, load_pretrained_=load)
