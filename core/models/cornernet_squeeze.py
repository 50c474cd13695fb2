"""CornerNet-Squeeze: CornerNet for real time (Law et al. 2019, arXiv:1904.08900, section 4).

Unlike CornerNet's, its stem halves once more and its hourglasses once less; these are made of fire
modules and double maps by transposed convolutions; the heads are 1x1 convolutions.
"""

from dataclasses import dataclass

from ..config.errors import UserError
from ..config.loading import Config
from ..layers.fire import Fire
from ..layers.hourglass import transposed_upsample
from . import cornernet
from .architecture import read_architecture
from .corners import CornerArchitecture, corner_detector, read_pairing
from .detector import Detector


@dataclass(frozen=True)
class Architecture(CornerArchitecture):
    """The ``model`` section of a config, as in :class:`.corners.CornerArchitecture`."""

    stem_channels: tuple[int, ...] = (128, 256, 256)
    channels: tuple[int, ...] = (256, 256, 384, 384, 512)
    blocks: tuple[int, ...] = (2, 2, 2, 2, 4)

    def check(self, where: str) -> None:
        """Refuses numbers from which no network can be made, odd channels among them."""
        super().check(where)
        if any(count % 2 for count in self.channels):
            raise UserError(
                f"{where}.channels {list(self.channels)} must be even: a fire module is two halves"
            )


def build(config: Config, num_classes: int) -> Detector:
    """Builds CornerNet-Squeeze with fresh weights; errors as :func:`core.models.build`."""
    architecture = read_architecture(Architecture, config)
    network = cornernet.CornerNet(
        num_classes, architecture, block=Fire, upsample=transposed_upsample, head_kernel=1
    )
    pairing = read_pairing(config, num_classes, architecture.pairing, no_border=False)
    return corner_detector(config, network, architecture, pairing)
