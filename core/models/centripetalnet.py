"""CentripetalNet: corners that point to the centre of their box (arXiv:2003.09119).

CornerNet's network and corner pooling, with other heads: a guiding shift and a centripetal shift
in place of the embedding. The paper's masks of objects are left out.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from ..config.loading import Config
from ..layers.cross_star import GuidedShift
from ..layers.heads import Search, where_to_read, with_peaks
from ..structures import GuidedMaps, SearchedMaps
from . import cornernet
from .architecture import HourglassArchitecture, read_architecture
from .corners import CornerArchitecture, corner_detector, guided_pairing
from .detector import Detector


@dataclass(frozen=True)
class Architecture(HourglassArchitecture):
    """The ``model`` section of a config: hourglasses, and corner pooling modules.

    Attributes:
        pooling_channels: channels of the maps that are pooled.
    """

    pooling_channels: int = 128


class CentripetalNet(cornernet.CornerNet):
    """CornerNet, of which each corner predicts a guiding shift and a centripetal shift.

    Args:
        num_classes: number of object classes C.
        architecture: widths and depths.
    """

    def __init__(self, num_classes: int, architecture: Architecture):
        corners = CornerArchitecture(**vars(architecture), pairing="embedding")
        super().__init__(num_classes, corners)
        del self.tl_tags, self.br_tags
        width, stacks = architecture.head_channels, range(architecture.stacks)
        self.tl_shifts = nn.ModuleList(GuidedShift(width) for _ in stacks)
        self.br_shifts = nn.ModuleList(GuidedShift(width) for _ in stacks)

    def corner_maps(  # type: ignore[override]
        self,
        features: Tensor,
        stack: int,
        cells: tuple[Tensor | None, Tensor | None],
        search: Search | None,
    ) -> GuidedMaps | SearchedMaps:
        """Computes the maps of one stack from its features [B, head_channels, H, W]."""
        top_left = self.tl_modules[stack](features)
        bottom_right = self.br_modules[stack](features)
        tl_heatmap, br_heatmap = self.tl_heats[stack](top_left), self.br_heats[stack](bottom_right)
        (tl_cells, br_cells), peaks = where_to_read((tl_heatmap, br_heatmap), cells, search)
        tl_guiding, tl_shift = self.tl_shifts[stack](top_left, tl_cells)
        br_guiding, br_shift = self.br_shifts[stack](bottom_right, br_cells)
        maps = GuidedMaps(
            tl_heatmap=tl_heatmap,
            br_heatmap=br_heatmap,
            tl_shift=tl_shift,
            br_shift=br_shift,
            tl_offset=self.tl_offs[stack](top_left, tl_cells),
            br_offset=self.br_offs[stack](bottom_right, br_cells),
            tl_guiding=tl_guiding,
            br_guiding=br_guiding,
        )
        return with_peaks(maps, peaks)


def build(config: Config, num_classes: int) -> Detector:
    """Builds CentripetalNet with fresh weights; errors as :func:`core.models.build`."""
    architecture = read_architecture(Architecture, config)
    network = CentripetalNet(num_classes, architecture)
    pairing = guided_pairing(config, num_classes, architecture.stride)
    return corner_detector(config, network, architecture, pairing)
