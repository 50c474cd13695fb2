"""CornerNet: objects as pairs of corners (Law and Deng 2018, arXiv:1808.01244)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from ..config.loading import Config
from ..layers.backbones import Backbone
from ..layers.blocks import Block, Residual
from ..layers.corner_pooling import BOTTOM_RIGHT, TOP_LEFT, Corner, CornerPooling
from ..layers.distribution import VALUES
from ..layers.heads import HEATMAP_BIAS, Head, Search, read_heads, where_to_read, with_peaks
from ..layers.hourglass import StackedHourglass, StackMaps, Upsample, nearest_upsample
from ..layers.pyramid import PyramidFeatures, pyramid_maps
from ..structures import CentripetalMaps, CornerMaps, SearchedMaps
from .architecture import on_hourglasses, read_architecture
from .corners import CornerArchitecture, CornerPyramid, corner_detector, read_pairing
from .detector import Detector
from .pyramid import backbone_of, on_backbone


class CornerHeads(nn.Module, ABC):
    """Modules and heads for the two corners of a box, on the features of each stack.

    Attribute names are frozen: weights of the reference depend on them.

    Args:
        features: parts of the network below the heads, by their attributes' names.
        num_classes: number of object classes C.
        architecture: widths.
        head_kernel: side of the kernel of the heads' first convolution.
    """

    def __init__(
        self,
        features: Mapping[str, nn.Module],
        num_classes: int,
        architecture: CornerArchitecture | CornerPyramid,
        head_kernel: int = 3,
    ):
        super().__init__()
        width = architecture.head_channels
        stacks = range(architecture.stacks)

        def heads(outputs: int, bias: float | None = None) -> nn.ModuleList:
            return nn.ModuleList(Head(width, width, outputs, head_kernel, bias) for _ in stacks)

        def poolings(corner: Corner) -> nn.ModuleList:
            pooled = architecture.pooling_channels
            return nn.ModuleList(CornerPooling(width, pooled, corner) for _ in stacks)

        for name, module in features.items():
            self.add_module(name, module)
        self.tl_modules, self.br_modules = poolings(TOP_LEFT), poolings(BOTTOM_RIGHT)
        self.tl_heats = heads(num_classes, HEATMAP_BIAS)
        self.br_heats = heads(num_classes, HEATMAP_BIAS)
        self.pairing = architecture.pairing
        if self.pairing == "embedding":
            self.tl_tags, self.br_tags = heads(1), heads(1)
            self.tl_offs, self.br_offs = heads(2), heads(2)
        else:
            self.tl_shifts, self.br_shifts = heads(2), heads(2)
            self.tl_offset_bins, self.br_offset_bins = heads(2 * VALUES), heads(2 * VALUES)
            self.center_heats = heads(num_classes, HEATMAP_BIAS)

    @abstractmethod
    def stack_maps(self, images: Tensor) -> list[StackMaps]:
        """Computes the features of every stack from normalised images [B, 3, height, width]."""

    def forward(
        self,
        images: Tensor,
        tl_cells: Tensor | None = None,
        br_cells: Tensor | None = None,
        search: Search | None = None,
    ) -> list[CornerMaps | CentripetalMaps | SearchedMaps]:
        """Computes the maps of every stack, or in evaluation mode of the last one only.

        Args:
            images: [B, 3, height, width], normalised.
            tl_cells, br_cells: int64 [B, M], cells of either corner whose embeddings or shifts, and
                offsets, are computed; None: all.
            search: finds these cells instead, by the heatmaps of both corners.
        """
        outputs = self.stack_maps(images)
        stacks = range(0 if self.training else len(outputs) - 1, len(outputs))
        cells = tl_cells, br_cells
        return [self.corner_maps(outputs[stack].features, stack, cells, search) for stack in stacks]

    def corner_maps(
        self,
        features: Tensor,
        stack: int,
        cells: tuple[Tensor | None, Tensor | None],
        search: Search | None,
    ) -> CornerMaps | CentripetalMaps | SearchedMaps:
        """Computes the maps of one stack from its features [B, head_channels, H, W]."""
        top_left = self.tl_modules[stack](features)
        bottom_right = self.br_modules[stack](features)
        tl_heatmap, br_heatmap = self.tl_heats[stack](top_left), self.br_heats[stack](bottom_right)
        (tl_cells, br_cells), peaks = where_to_read((tl_heatmap, br_heatmap), cells, search)
        if self.pairing == "embedding":
            tl_heads = self.tl_tags[stack], self.tl_offs[stack]
            br_heads = self.br_tags[stack], self.br_offs[stack]
            tl_embedding, tl_offset = read_heads(top_left, tl_cells, *tl_heads)
            br_embedding, br_offset = read_heads(bottom_right, br_cells, *br_heads)
            embedded = CornerMaps(
                tl_heatmap=tl_heatmap,
                br_heatmap=br_heatmap,
                tl_embedding=tl_embedding,
                br_embedding=br_embedding,
                tl_offset=tl_offset,
                br_offset=br_offset,
            )
            return with_peaks(embedded, peaks)
        tl_heads = self.tl_shifts[stack], self.tl_offset_bins[stack]
        br_heads = self.br_shifts[stack], self.br_offset_bins[stack]
        tl_shift, tl_offset_bins = read_heads(top_left, tl_cells, *tl_heads)
        br_shift, br_offset_bins = read_heads(bottom_right, br_cells, *br_heads)
        maps = CentripetalMaps(
            tl_heatmap=tl_heatmap,
            br_heatmap=br_heatmap,
            tl_shift=tl_shift,
            br_shift=br_shift,
            tl_offset_bins=tl_offset_bins,
            br_offset_bins=br_offset_bins,
            center_heatmap=self.center_heats[stack](features),
        )
        return with_peaks(maps, peaks)


class CornerNet(CornerHeads):
    """Stacked hourglasses, and on each of them modules and heads for the two corners of a box.

    Args:
        num_classes: number of object classes C.
        architecture: widths and depths.
        block: makes a block of the hourglasses.
        upsample: makes a module that doubles a map in the hourglasses.
        head_kernel: side of the kernel of the heads' first convolution.
    """

    hg: StackedHourglass

    def __init__(
        self,
        num_classes: int,
        architecture: CornerArchitecture,
        block: Block = Residual,
        upsample: Upsample = nearest_upsample,
        head_kernel: int = 3,
    ):
        hourglasses = StackedHourglass(
            architecture.stem_channels,
            architecture.channels,
            architecture.blocks,
            architecture.stacks,
            architecture.head_channels,
            block,
            upsample,
        )
        super().__init__({"hg": hourglasses}, num_classes, architecture, head_kernel)

    def stack_maps(self, images: Tensor) -> list[StackMaps]:
        """Computes the features of every hourglass from images [B, 3, height, width]."""
        stacks: list[StackMaps] = self.hg(images)
        return stacks


class PyramidCornerNet(CornerHeads):
    """A pyramid over a backbone, and on it modules and heads for the two corners of a box.

    Args:
        num_classes: number of object classes C.
        architecture: widths.
        backbone: the backbone.
    """

    backbone: Backbone
    pyramid: PyramidFeatures

    def __init__(self, num_classes: int, architecture: CornerPyramid, backbone: Backbone):
        pyramid = PyramidFeatures(
            backbone.channels, architecture.stride, architecture.head_channels
        )
        features = {"backbone": backbone, "pyramid": pyramid}
        super().__init__(features, num_classes, architecture)

    def stack_maps(self, images: Tensor) -> list[StackMaps]:
        """Computes the features of its one stack from images [B, 3, height, width]."""
        return pyramid_maps(self.backbone, self.pyramid, images)


def build(config: Config, num_classes: int) -> Detector:
    """Builds CornerNet with fresh weights; errors as :func:`core.models.build`.

    With ``model.backbone`` "hourglass", the default, it is the published network.
    """
    if not on_hourglasses(config):
        return build_on_pyramid(CornerPyramid, config, num_classes)
    architecture = read_architecture(CornerArchitecture, config)
    network = CornerNet(num_classes, architecture)
    pairing = read_pairing(config, num_classes, architecture.pairing, no_border=False)
    return corner_detector(config, network, architecture, pairing)


def build_on_pyramid(schema: type[CornerPyramid], config: Config, num_classes: int) -> Detector:
    """Builds CornerNet on a pyramid with fresh weights; errors as :func:`core.models.build`.

    Args:
        schema: the ``model`` section with its defaults.
        config: the config.
        num_classes: number of object classes C.
    """
    architecture = read_architecture(schema, config)
    backbone = backbone_of(config, architecture)
    network = PyramidCornerNet(num_classes, architecture, backbone)
    pairing = read_pairing(config, num_classes, architecture.pairing, no_border=False)
    detector = corner_detector(config, network, architecture, pairing)
    return on_backbone(detector, config, architecture, backbone)
