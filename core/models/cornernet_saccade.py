"""CornerNet-Saccade: detection by closer looks (Law et al. 2019, arXiv:1904.08900, section 3).

What differs from CornerNet: three shallow hourglasses (hourglass-54) look at small views; attention
maps on the hourglasses' merged maps say where a closer look is worth while.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from ..config.errors import UserError
from ..config.loading import Config, Db
from ..data.samples import sample_unchanged
from ..data.samples.saccade import sample_saccade
from ..inference.saccade import SaccadePrediction, SaccadeSettings, detect_saccades
from ..layers.heads import HEATMAP_BIAS, Cells, Head
from ..losses.saccade import saccade_losses
from ..structures import CornerMaps, SaccadeMaps
from ..targets.saccade import saccade_targets
from . import cornernet
from .cornernet_saccade_settings import saccade_problems
from .corners import class_head_keys, corner_decoder, decoded_cells
from .detector import Detector
from .unused import refuse_unused


@dataclass(frozen=True)
class Architecture(cornernet.Architecture):
    """The ``model`` section of a config, see :class:`core.models.cornernet.Architecture`."""

    stacks: int = 3
    channels: tuple[int, ...] = (256, 384, 384, 512)
    blocks: tuple[int, ...] = (1, 1, 1, 1)


class CornerNetSaccade(cornernet.CornerNet):
    """CornerNet with attention heads on the finest merged maps of each hourglass.

    Attribute names are frozen: weights of the reference depend on them.

    Args:
        num_classes: number of object classes C.
        architecture: widths and depths.
        levels: number of attention maps, at most one for each time that an hourglass doubles a map.
    """

    def __init__(self, num_classes: int, architecture: Architecture, levels: int):
        super().__init__(num_classes, architecture)
        self.levels = levels
        width = architecture.head_channels
        merged = architecture.channels[levels - 1 :: -1]  # coarse first
        self.att_modules = nn.ModuleList(
            nn.ModuleList(Head(channels, width, 1, bias=HEATMAP_BIAS) for channels in merged)
            for _ in range(architecture.stacks)
        )

    def forward(  # type: ignore[override]
        self,
        images: Tensor,
        tl_cells: Cells | None = None,
        br_cells: Cells | None = None,
        attention: bool = True,
    ) -> list[SaccadeMaps]:
        """Gives the maps of every stack, or in evaluation mode of the last one only.

        Args:
            images: [B, 3, height, width], normalised.
            tl_cells, br_cells: see :meth:`core.models.cornernet.CornerNet.forward`.
            attention: whether the attention maps are wanted; without them ``attention`` is empty.
        """
        outputs = self.hg(images)
        maps = []
        for stack in range(0 if self.training else len(outputs) - 1, len(outputs)):
            features, merged = outputs[stack]
            looks: list[Tensor] = []
            if attention:
                heads = self.att_modules[stack].children()
                finest = merged[-self.levels :]
                looks = [head(level) for head, level in zip(heads, finest, strict=True)]
            corners = self.corner_maps(features, stack, tl_cells, br_cells)
            maps.append(SaccadeMaps(corners, looks))
        return maps


def build(config: Config, num_classes: int) -> Detector:
    """Builds CornerNet-Saccade with fresh weights; errors as :func:`core.models.build`."""
    refuse_unused(
        config,
        refused=["merge_bbox", "test_scales", "test_resolution"],
        idle=["test_flipped", "test_nms", "weight_exp", "rand_crop", "border"],
    )
    architecture = cornernet.read_architecture(Architecture, config)
    db, stacks = config.db, architecture.stacks
    levels = len(db.att_ranges)
    strides = tuple(architecture.stride * 2**level for level in reversed(range(levels)))
    sizes = attention_sizes(db.output_size, levels)
    for problem in saccade_problems(db, len(architecture.channels) - 1, sizes, strides):
        raise UserError(f"{config.path}: db.{problem}")
    corners = corner_decoder(db, no_border=True, where=config.path)
    decode = partial(decode_saccade, corners=corners)
    sample = partial(
        sample_saccade,
        input_size=db.input_size,
        scales=db.scales,
        ranges=db.att_ranges,
        min_side=db.min_scale,
        centered=db.rand_center,
        color=db.rand_color,
        lighting=db.lighting,
    )
    return Detector(
        network=CornerNetSaccade(num_classes, architecture, levels),
        sample=sample if db.data_aug else partial(sample_unchanged, sample),
        targets=partial(
            saccade_targets,
            sizes=sizes,
            strides=strides,
            ranges=db.att_ranges,
            num_classes=num_classes,
            output_size=db.output_size,
            gaussian_bump=db.gaussian_bump,
            gaussian_iou=db.gaussian_iou,
            gaussian_radius=db.gaussian_radius,
        ),
        losses=saccade_losses,
        network_inputs=lambda targets: (targets.corners.tl_index, targets.corners.br_index),
        decode_inputs=decoded_cells(db),
        decode=decode,
        infer=partial(
            detect_saccades,
            settings=_settings(db, strides),
            nms_algorithm=db.nms_algorithm,
            nms_threshold=db.nms_threshold,
            max_per_image=db.max_per_image,
        ),
        class_head_keys=class_head_keys(stacks),
    )


def decode_saccade(
    outputs: list[SaccadeMaps], *, corners: Callable[[CornerMaps], Tensor]
) -> SaccadePrediction:
    """What inference needs of the last stack.

    Args:
        outputs: one entry a stack.
        corners: decodes the corners' maps.
    """
    maps = outputs[-1]
    attention = [logits.float().sigmoid() for logits in maps.attention]
    return SaccadePrediction(corners(maps.corners), attention)


def attention_sizes(output_size: tuple[int, int], levels: int) -> tuple[tuple[int, int], ...]:
    """Height and width, in cells, of the attention maps, coarse first: each doubles the one before.

    Args:
        output_size: of the corners' heatmaps, the size of the finest.
        levels: number of maps.
    """
    height, width = output_size
    return tuple((height >> level, width >> level) for level in reversed(range(levels)))


def _settings(db: Db, strides: tuple[int, ...]) -> SaccadeSettings:
    return SaccadeSettings(
        input_size=db.input_size,
        output_size=db.output_size,
        init_sizes=db.init_sizes,
        ranges=db.att_ranges,
        strides=strides,
        windows=db.att_nms_ks,
        zooms=db.att_scales,
        thresholds=db.att_thresholds,
        max_crops=db.att_max_crops,
        detections_too=db.ref_dets,
    )
