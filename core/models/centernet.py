"""CenterNet: objects as the centres of their boxes (Zhou et al. 2019, arXiv:1904.07850).

Backbones: the stacked hourglasses of CornerNet, and ResNet-18 with transposed convolutions, both as
published; every other one has a pyramid on it, also the other ResNets.

Weights published for hourglass-104 load as they are: every key of the network on hourglasses is the
published one.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..config.loading import Config
from ..data.samples.centers import sample_centers
from ..data.samples.fit import choose_sample
from ..decode.centers import decode_images, read_centers
from ..inference.centers import CenterSettings, Geometry, detect_centers
from ..layers.backbones import Backbone
from ..layers.heads import HEATMAP_BIAS, Head, Search, read_heads, where_to_read, with_peaks
from ..layers.hourglass import StackedHourglass
from ..layers.pyramid import PyramidFeatures, pyramid_maps
from ..layers.resnet import UpsampledResNet18
from ..losses.centers import center_losses
from ..structures import CenterMaps, SearchedMaps
from ..targets.centers import center_targets
from .architecture import (
    SACCADE_SETTINGS,
    UNUSED_WITH,
    HourglassArchitecture,
    PyramidArchitecture,
    on_hourglasses,
    read_architecture,
    refuse_unused,
    require_counts,
)
from .detector import Detector
from .imagenet import RESNET18, load_imagenet_weights_
from .pyramid import backbone_of, on_backbone


@dataclass(frozen=True)
class OnResNet18:
    """The ``model`` section of a config on ResNet-18.

    Attributes:
        backbone: the ``model.backbone`` that chooses this section.
        up_channels: channels of the transposed convolutions, each of which doubles the size.
        up_convolutions: a 3x3 convolution before each of these, as in mmdetection's CenterNet.
        head_channels: channels between the two convolutions of a head.
        backbone_weights: file of torchvision's ResNet-18 weights; None: training starts from
            scratch.
    """

    backbone: str = "resnet18"
    up_channels: tuple[int, int, int] = (256, 256, 256)
    up_convolutions: bool = False
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

    def __init__(self, num_classes: int, architecture: HourglassArchitecture):
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
        self, images: Tensor, cells: Tensor | None = None, search: Search | None = None
    ) -> list[CenterMaps | SearchedMaps]:
        """Computes the maps of every stack, or in evaluation mode of the last one only.

        Args:
            images: [B, 3, height, width], normalised.
            cells: int64 [B, M], cells whose sizes and offsets are computed; None: all.
            search: finds these cells instead, by the heatmap.
        """
        outputs = super().forward(images)
        stacks = range(0 if self.training else len(outputs) - 1, len(outputs))
        return [
            center_maps(self, outputs[stack].features, stack, cells, search) for stack in stacks
        ]


class CenterResNet18(nn.Module):
    """ResNet-18, upsampled to a quarter of the image's size, and heads for centres.

    Args:
        num_classes: number of object classes C.
        architecture: widths.
    """

    def __init__(self, num_classes: int, architecture: OnResNet18):
        super().__init__()
        channels = architecture.up_channels
        self.backbone = UpsampledResNet18(channels, architecture.up_convolutions)
        self.hm, self.wh, self.reg = center_heads(
            channels[-1], architecture.head_channels, num_classes, 1
        )

    def forward(
        self, images: Tensor, cells: Tensor | None = None, search: Search | None = None
    ) -> list[CenterMaps | SearchedMaps]:
        """Computes the maps of its one stack; arguments as for :meth:`CenterHourglass.forward`."""
        return [center_maps(self, self.backbone(images), 0, cells, search)]


class CenterPyramid(nn.Module):
    """A pyramid over a backbone, and heads for centres.

    Args:
        num_classes: number of object classes C.
        architecture: widths.
        backbone: the backbone.
    """

    def __init__(self, num_classes: int, architecture: PyramidArchitecture, backbone: Backbone):
        super().__init__()
        width = architecture.head_channels
        self.backbone = backbone
        self.pyramid = PyramidFeatures(backbone.channels, architecture.stride, width)
        self.hm, self.wh, self.reg = center_heads(width, width, num_classes, architecture.stacks)

    def forward(
        self, images: Tensor, cells: Tensor | None = None, search: Search | None = None
    ) -> list[CenterMaps | SearchedMaps]:
        """Computes the maps of its one stack; arguments as for :meth:`CenterHourglass.forward`."""
        (stack,) = pyramid_maps(self.backbone, self.pyramid, images)
        return [center_maps(self, stack.features, 0, cells, search)]


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
    network: CenterHourglass | CenterResNet18 | CenterPyramid,
    features: Tensor,
    stack: int,
    cells: Tensor | None,
    search: Search | None,
) -> CenterMaps | SearchedMaps:
    """Computes the maps of a stack from its features [B, channels, H, W]."""
    heatmap = network.hm[stack](features)
    (cells,), peaks = where_to_read((heatmap,), (cells,), search)
    size, offset = read_heads(features, cells, network.wh[stack], network.reg[stack])
    return with_peaks(CenterMaps(heatmap, size, offset), peaks)


def build(config: Config, num_classes: int) -> Detector:
    """Builds CenterNet with fresh weights; errors as :func:`core.models.build`."""
    sampling = config.db.sampling
    idle = ["ae_threshold", "num_dets", "weight_exp", *SACCADE_SETTINGS, *UNUSED_WITH[sampling]]
    refused = ["merge_bbox", "regression_window"]
    if sampling == "fit":
        refused.append("test_resolution")  # images are tested as they are trained
    refuse_unused(config, refused, idle)
    if config.model.get("backbone") == "resnet18":
        return _on_resnet18(config, num_classes)
    if on_hourglasses(config):
        hourglasses = read_architecture(HourglassArchitecture, config)
        network = CenterHourglass(num_classes, hourglasses)
        return _detector(config, num_classes, network, hourglasses)
    architecture = read_architecture(PyramidArchitecture, config)
    backbone = backbone_of(config, architecture)
    on_pyramid = CenterPyramid(num_classes, architecture, backbone)
    detector = _detector(config, num_classes, on_pyramid, architecture)
    return on_backbone(detector, config, architecture, backbone)


def _on_resnet18(config: Config, num_classes: int) -> Detector:
    """Builds CenterNet on ResNet-18 with transposed convolutions."""
    architecture = read_architecture(OnResNet18, config)
    network, load = CenterResNet18(num_classes, architecture), None
    weights = architecture.backbone_weights
    if weights is not None:
        where = f"{config.path}: model.backbone_weights"
        load = partial(load_imagenet_weights_, network, weights, where, RESNET18)
    detector = _detector(config, num_classes, network, architecture)
    return replace(
        detector, stages=partial(_resnet_stages, network.backbone.body), load_pretrained_=load
    )


def _resnet_stages(body: nn.Sequential) -> tuple[nn.Module, ...]:
    """The layers of a ResNet up to its stride 4, and those of its strides 8, 16 and 32."""
    layers = list(body)
    return (nn.Sequential(*layers[:-3]), *layers[-3:])


def _detector(
    config: Config,
    num_classes: int,
    network: nn.Module,
    architecture: HourglassArchitecture | OnResNet18 | PyramidArchitecture,
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
        decode=partial(decode_images, **decoding),
        decode_inputs={"search": partial(read_centers, **decoding)},
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
