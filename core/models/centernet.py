"""CenterNet: objects as the centres of their boxes (Zhou et al. 2019, arXiv:1904.07850).

Two backbones: the stacked hourglasses of CornerNet, and ResNet-18 with transposed convolutions.

Weights published for hourglass-104 load as they are: every key of the network on hourglasses is the
published one.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..config.errors import UserError
from ..config.loading import Config
from ..data.samples.centers import sample_centers
from ..data.samples.fit import choose_sample
from ..decode.centers import center_cells, decode_image
from ..inference.centers import CenterSettings, Geometry, detect_centers
from ..layers.heads import HEATMAP_BIAS, Cells, Head, cells_in
from ..layers.hourglass import StackedHourglass
from ..layers.resnet import UpsampledResNet18
from ..losses.centers import center_losses
from ..structures import CenterMaps
from ..targets.centers import center_targets
from .architecture import (
    SACCADE_SETTINGS,
    UNUSED_WITH,
    HourglassArchitecture,
    read_architecture,
    refuse_unused,
    require_counts,
)
from .detector import Detector
from .imagenet import RESNET18, load_imagenet_weights_


@dataclass(frozen=True)
class OnHourglass(HourglassArchitecture):
    """The ``model`` section of a config on hourglasses.

    Attributes:
        backbone: the key of :data:`BACKBONES` that chooses this section.
    """

    backbone: str = "hourglass"

    @property
    def backbone_weights(self) -> None:
        """File of weights to start from: none."""


@dataclass(frozen=True)
class OnResNet18:
    """The ``model`` section of a config on ResNet-18.

    Attributes:
        backbone: the key of :data:`BACKBONES` that chooses this section.
        up_channels: channels of the transposed convolutions, each of which doubles the size.
        head_channels: channels between the two convolutions of a head.
        backbone_weights: file of torchvision's ResNet-18 weights; None: training starts from
            scratch.
    """

    backbone: str = "resnet18"
    up_channels: tuple[int, int, int] = (256, 256, 256)
    head_channels: int = 64
    backbone_weights: str | None = None

    @property
    def stacks(self) -> int:
        """Number of stacks with heads of their own."""
        return 1

    @property
    def stride(self) -> int:
        """Pixels per cell of the heatmaps."""
        return self.coarsest_stride >> len(self.up_channels)

    @property
    def coarsest_stride(self) -> int:
        """Pixels per cell of the coarsest map."""
        return 32

    def check(self, where: str) -> None:
        """Refuses counts below 1.

        Args:
            where: file and section, for messages.
        """
        require_counts(self, where)


class CenterHourglass(StackedHourglass):
    """Stacked hourglasses, and on each of them heads for the centres of boxes.

    Attribute names are frozen, since the published weights depend on them: ``kps`` for the
    hourglasses, ``hm``, ``wh`` and ``reg`` for the heads of heatmap, size and offset.

    Args:
        num_classes: number of object classes C.
        architecture: widths and depths.
    """

    def __init__(self, num_classes: int, architecture: OnHourglass):
        width, stacks = architecture.head_channels, architecture.stacks
        super().__init__(
            architecture.stem_channels,
            architecture.channels,
            architecture.blocks,
            stacks,
            width,
            key="kps",
        )
        self.hm, self.wh, self.reg = center_heads(width, width, num_classes, stacks)

    def forward(  # type: ignore[override]
        self, images: Tensor, cells: Cells | None = None
    ) -> list[CenterMaps]:
        """Computes the maps of every stack, or in evaluation mode of the last one only.

        Args:
            images: [B, 3, height, width], normalised.
            cells: cells whose sizes and offsets are computed; None: all.
        """
        outputs = super().forward(images)
        stacks = range(0 if self.training else len(outputs) - 1, len(outputs))
        return [center_maps(self, outputs[stack].features, stack, cells) for stack in stacks]


class CenterResNet18(nn.Module):
    """ResNet-18, upsampled to a quarter of the image's size, and heads for centres.

    Args:
        num_classes: number of object classes C.
        architecture: widths.
    """

    def __init__(self, num_classes: int, architecture: OnResNet18):
        super().__init__()
        channels = architecture.up_channels
        self.backbone = UpsampledResNet18(channels)
        self.hm, self.wh, self.reg = center_heads(
            channels[-1], architecture.head_channels, num_classes, 1
        )

    def forward(self, images: Tensor, cells: Cells | None = None) -> list[CenterMaps]:
        """Computes the maps of its one stack; arguments as for :meth:`CenterHourglass.forward`."""
        return [center_maps(self, self.backbone(images), 0, cells)]


def center_heads(
    channels: int, hidden_channels: int, num_classes: int, stacks: int
) -> list[nn.ModuleList]:
    """Makes the heads for heatmap, size and offset, each with one entry a stack."""

    def heads(outputs: int, bias: float | None = None) -> nn.ModuleList:
        return nn.ModuleList(
            Head(channels, hidden_channels, outputs, bias=bias) for _ in range(stacks)
        )

    return [heads(num_classes, HEATMAP_BIAS), heads(2), heads(2)]


def center_maps(
    network: CenterHourglass | CenterResNet18, features: Tensor, stack: int, cells: Cells | None
) -> CenterMaps:
    """Computes the maps of a stack from its features [B, channels, H, W]."""
    heatmap = network.hm[stack](features)
    read = cells_in(heatmap, cells)
    size, offset = (head[stack](features, read) for head in (network.wh, network.reg))
    return CenterMaps(heatmap, size, offset)


# The ``model`` section and the network of each ``model.backbone``.
BACKBONES: dict[str, tuple[type[OnHourglass | OnResNet18], Callable[[int, Any], nn.Module]]] = {
    "hourglass": (OnHourglass, CenterHourglass),
    "resnet18": (OnResNet18, CenterResNet18),
}


def build(config: Config, num_classes: int) -> Detector:
    """Builds CenterNet with fresh weights; errors as :func:`core.models.build`."""
    sampling = config.db.sampling
    idle = ["ae_threshold", "num_dets", "weight_exp", *SACCADE_SETTINGS, *UNUSED_WITH[sampling]]
    refused = ["merge_bbox", "regression_window"]
    if sampling == "fit":
        refused.append("test_resolution")  # images are tested as they are trained
    refuse_unused(config, refused, idle)
    backbone = str(config.model.get("backbone", "hourglass"))
    if backbone not in BACKBONES:
        raise UserError(
            f"{config.path}: model.backbone: {backbone!r} must be one of "
            f"{', '.join(map(repr, BACKBONES))}"
        )
    section, network_class = BACKBONES[backbone]
    architecture = read_architecture(section, config)
    network = network_class(num_classes, architecture)
    detector = _detector(config, num_classes, network, architecture)
    weights = architecture.backbone_weights
    if weights is None:
        return detector
    where = f"{config.path}: model.backbone_weights"
    load = partial(load_imagenet_weights_, network, weights, where, RESNET18)
    return replace(detector, load_pretrained_=load)


def _detector(
    config: Config, num_classes: int, network: nn.Module, architecture: OnHourglass | OnResNet18
) -> Detector:
    """Builds a detector of centres around its network."""
    db = config.db
    decoding: dict[str, Any] = {
        "mirrored": db.test_flipped,
        "top_k": db.top_k,
        "kernel": db.nms_kernel,
    }
    return Detector(
        network=network,
        sample=choose_sample(db, sample_centers),
        targets=partial(
            center_targets,
            num_classes=num_classes,
            output_size=db.output_size,
            gaussian_bump=db.gaussian_bump,
            gaussian_iou=db.gaussian_iou,
            gaussian_radius=db.gaussian_radius,
        ),
        losses=center_losses,
        network_inputs=lambda targets: (targets.index,),
        decode=partial(decode_image, **decoding),
        decode_inputs={"cells": partial(center_cells, **decoding)},
        infer=partial(
            detect_centers,
            settings=CenterSettings(
                geometry=Geometry(
                    "fit" if db.sampling == "fit" else db.test_resolution,
                    db.input_size,
                    architecture.coarsest_stride,
                    architecture.stride,
                ),
                test_scales=db.test_scales,
                test_flipped=db.test_flipped,
                nms=db.test_nms,
                nms_algorithm=db.nms_algorithm,
                nms_threshold=db.nms_threshold,
                max_per_image=db.max_per_image,
                reference_scoring=db.reference_scoring,
            ),
        ),
        class_head_keys=tuple(f"hm.{stack}.1." for stack in range(architecture.stacks)),
    )
