"""CornerNet: objects as pairs of corners (Law and Deng 2018, arXiv:1808.01244)."""

from torch import Tensor, nn

from ..config.loading import Config
from ..layers.blocks import Block, Residual
from ..layers.corner_pooling import BOTTOM_RIGHT, TOP_LEFT, Corner, CornerPooling
from ..layers.distribution import VALUES
from ..layers.heads import HEATMAP_BIAS, Cells, Head, cells_in
from ..layers.hourglass import StackedHourglass, Upsample, nearest_upsample
from ..structures import CentripetalMaps, CornerMaps
from .architecture import read_architecture
from .corners import CornerArchitecture, corner_detector, read_pairing
from .detector import Detector


class CornerNet(nn.Module):
    """Stacked hourglasses, and on each of them modules and heads for the two corners of a box.

    Attribute names are frozen: weights of the reference depend on them.

    Args:
        num_classes: number of object classes C.
        architecture: widths and depths.
        block: makes a block of the hourglasses.
        upsample: makes a module that doubles a map in the hourglasses.
        head_kernel: side of the kernel of the heads' first convolution.
    """

    def __init__(
        self,
        num_classes: int,
        architecture: CornerArchitecture,
        block: Block = Residual,
        upsample: Upsample = nearest_upsample,
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

        self.hg = StackedHourglass(
            architecture.stem_channels,
            architecture.channels,
            architecture.blocks,
            architecture.stacks,
            width,
            block,
            upsample,
        )
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

    def forward(
        self, images: Tensor, tl_cells: Cells | None = None, br_cells: Cells | None = None
    ) -> list[CornerMaps | CentripetalMaps]:
        """Computes the maps of every stack, or in evaluation mode of the last one only.

        Args:
            images: [B, 3, height, width], normalised.
            tl_cells, br_cells: cells of either corner whose embeddings or shifts, and offsets, are
                computed; None: all.
        """
        outputs = self.hg(images)
        stacks = range(0 if self.training else len(outputs) - 1, len(outputs))
        return [
            self.corner_maps(outputs[stack].features, stack, tl_cells, br_cells) for stack in stacks
        ]

    def corner_maps(
        self, features: Tensor, stack: int, tl_cells: Cells | None, br_cells: Cells | None
    ) -> CornerMaps | CentripetalMaps:
        """Computes the maps of one stack from its features [B, head_channels, H, W]."""
        top_left = self.tl_modules[stack](features)
        bottom_right = self.br_modules[stack](features)
        tl_heatmap, br_heatmap = self.tl_heats[stack](top_left), self.br_heats[stack](bottom_right)
        tl_read, br_read = cells_in(tl_heatmap, tl_cells), cells_in(br_heatmap, br_cells)
        if self.pairing == "embedding":
            return CornerMaps(
                tl_heatmap=tl_heatmap,
                br_heatmap=br_heatmap,
                tl_embedding=self.tl_tags[stack](top_left, tl_read),
                br_embedding=self.br_tags[stack](bottom_right, br_read),
                tl_offset=self.tl_offs[stack](top_left, tl_read),
                br_offset=self.br_offs[stack](bottom_right, br_read),
            )
        return CentripetalMaps(
            tl_heatmap=tl_heatmap,
            br_heatmap=br_heatmap,
            tl_shift=self.tl_shifts[stack](top_left, tl_read),
            br_shift=self.br_shifts[stack](bottom_right, br_read),
            tl_offset_bins=self.tl_offset_bins[stack](top_left, tl_read),
            br_offset_bins=self.br_offset_bins[stack](bottom_right, br_read),
            center_heatmap=self.center_heats[stack](features),
        )


def build(config: Config, num_classes: int) -> Detector:
    """Builds CornerNet with fresh weights; errors as :func:`core.models.build`."""
    architecture = read_architecture(CornerArchitecture, config)
    network = CornerNet(num_classes, architecture)
    pairing = read_pairing(config, num_classes, architecture.pairing, no_border=False)
    return corner_detector(config, network, architecture, pairing)
