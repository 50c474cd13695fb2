"""CornerNet-Saccade: detection in crops (Law et al. 2019, arXiv:1904.08900, section 3).

Unlike CornerNet, it runs three shallow hourglasses (hourglass-54) on small views of the image, and
attention maps on the hourglasses' merged maps show which regions to crop next.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..config.errors import UserError
from ..config.loading import Config, Db
from ..data.samples import sample_unchanged
from ..data.samples.saccade import SaccadeCropSettings, sample_saccade
from ..inference.locations import attention_peaks
from ..inference.saccade import SaccadePrediction, SaccadeSettings, detect_saccades
from ..layers.heads import HEATMAP_BIAS, Head, Search
from ..losses.saccade import saccade_losses
from ..structures import SaccadeMaps
from ..targets.saccade import saccade_targets
from . import cornernet
from .architecture import UNUSED_WITH, read_architecture, refuse_unused
from .corners import (
    PAIRING_HEAD_KEYS,
    CornerArchitecture,
    class_head_keys,
    read_pairing,
    searched_cells,
)
from .detector import Detector


@dataclass(frozen=True)
class Architecture(CornerArchitecture):
    """The ``model`` section of a config, as in :class:`.corners.CornerArchitecture`."""

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
        tl_cells: Tensor | None = None,
        br_cells: Tensor | None = None,
        search: Search | None = None,
        attention: bool = True,
    ) -> list[SaccadeMaps]:
        """Computes the maps of every stack, or in evaluation mode of the last one only.

        Args:
            images: [B, 3, height, width], normalised.
            tl_cells, br_cells, search: as for :meth:`.cornernet.CornerNet.forward`.
            attention: False: no attention maps are computed, and ``attention`` is empty.
        """
        outputs = self.hg(images)
        maps = []
        for stack in range(0 if self.training else len(outputs) - 1, len(outputs)):
            features, merged = outputs[stack]
            attended: list[Tensor] = []
            if attention:
                heads = self.att_modules[stack].children()
                finest = merged[-self.levels :]
                attended = [head(level) for head, level in zip(heads, finest, strict=True)]
            corners = self.corner_maps(features, stack, (tl_cells, br_cells), search)
            maps.append(SaccadeMaps(corners, attended))
        return maps


def build(config: Config, num_classes: int) -> Detector:
    """Builds CornerNet-Saccade with fresh weights; errors as :func:`core.models.build`."""
    refuse_unused(
        config,
        refused=["merge_bbox", "test_scales", "test_resolution", "sampling", "min_visible"],
        idle=[
            *("test_flipped", "test_nms", "weight_exp", "rand_crop", "border"),
            *UNUSED_WITH["crop"],
        ],
    )
    architecture = read_architecture(Architecture, config)
    db, stacks = config.db, architecture.stacks
    levels = len(db.att_ranges)
    strides = tuple(architecture.stride * 2**level for level in reversed(range(levels)))
    sizes = attention_sizes(db.output_size, levels)
    for problem in saccade_problems(db, len(architecture.channels) - 1, sizes, strides):
        raise UserError(f"{config.path}: db.{problem}")
    pairing = read_pairing(config, num_classes, architecture.pairing, no_border=True)
    crop = SaccadeCropSettings(
        input_size=db.input_size,
        scales=db.scales,
        ranges=db.att_ranges,
        min_side=db.min_scale,
        centered=db.rand_center,
        color=db.rand_color,
        lighting=db.lighting,
    )
    sample = partial(sample_saccade, settings=crop)
    return Detector(
        network=CornerNetSaccade(num_classes, architecture, levels),
        sample=sample if db.data_aug else partial(sample_unchanged, sample),
        targets=partial(
            saccade_targets,
            sizes=sizes,
            strides=strides,
            ranges=db.att_ranges,
            render=pairing.targets,
        ),
        losses=partial(saccade_losses, corners=pairing.losses),
        network_inputs=lambda targets: (targets.corners.tl_index, targets.corners.br_index),
        decode_inputs=searched_cells(db),
        decode=partial(decode_saccade, corners=pairing.decode, windows=db.att_nms_ks),
        infer=partial(detect_saccades, settings=_settings(db, strides)),
        class_head_keys=class_head_keys(stacks),
        pairing_head_keys=PAIRING_HEAD_KEYS,
    )


def decode_saccade(
    outputs: list[SaccadeMaps],
    *,
    corners: Callable[[Any], Tensor],
    windows: Sequence[int],
) -> SaccadePrediction:
    """Decodes the maps of the last stack.

    Args:
        outputs: one entry a stack.
        corners: function that decodes the maps of corners.
        windows: sides of the windows in which attention must be highest, of each map, in cells.
    """
    maps = outputs[-1]
    attention = tuple(logits.float().sigmoid() for logits in maps.attention)
    peaks = tuple(attention_peaks(attention, windows)) if attention else ()
    return SaccadePrediction(corners(maps.corners), attention, peaks)


def attention_sizes(output_size: tuple[int, int], levels: int) -> tuple[tuple[int, int], ...]:
    """Height and width, in cells, of the attention maps, coarse first: each doubles the one before.

    Args:
        output_size: height and width of the corners' heatmaps, and of the finest attention map.
        levels: number of attention maps.
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
        zooms=db.att_scales,
        thresholds=db.att_thresholds,
        max_crops=db.att_max_crops,
        detections_too=db.ref_dets,
        nms_algorithm=db.nms_algorithm,
        nms_threshold=db.nms_threshold,
        max_per_image=db.max_per_image,
    )


def saccade_problems(
    db: Db,
    doublings: int,
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
) -> Iterator[str]:
    """Checks the settings of saccades, each by itself and against the others.

    Args:
        db: the settings.
        doublings: number of times that an hourglass doubles a map.
        sizes: height and width, in cells, of the attention maps that the network makes.
        strides: pixels per cell of each of them.

    Yields:
        Messages, each starting with the setting's key.
    """
    levels, side = len(db.att_ranges), min(db.input_size)
    if not 1 <= levels <= doublings:
        yield (
            f"att_ranges names {levels} attention maps; the network has merged maps for 1 to "
            f"{doublings}"
        )
    for key, values in (("att_nms_ks", (db.att_nms_ks,)), ("att_scales", db.att_scales)):
        if any(len(value) != levels for value in values):
            yield f"{key} must give one number for each of the {levels} db.att_ranges"
    if len(db.att_scales) != len(db.att_thresholds):
        yield (
            f"att_scales names {len(db.att_scales)} rounds and db.att_thresholds "
            f"{len(db.att_thresholds)}; give each one entry a round"
        )
    if any(window < 1 or window % 2 == 0 for window in db.att_nms_ks):
        yield f"att_nms_ks {list(db.att_nms_ks)} must be odd"
    if any(zoom <= 0 for zooms in db.att_scales for zoom in zooms):
        yield "att_scales must hold numbers above 0"
    if any(not 0 <= threshold < 1 for threshold in db.att_thresholds):
        yield "att_thresholds must be at least 0 and below 1"
    if db.att_max_crops < 0:
        yield "att_max_crops must be at least 0"
    if not db.init_sizes or not all(1 <= size <= side for size in db.init_sizes):
        yield f"init_sizes {list(db.init_sizes)} must be 1 to {side}, the view's side, each"
    yield from _problems_of_ranges(db.att_ranges, side)
    for low, high in db.att_ranges:
        if max(low, db.min_scale, 1) > min(high, side - 1):
            yield (
                f"att_ranges has [{low}, {high}], and with db.min_scale {db.min_scale} and "
                f"db.input_size {list(db.input_size)} no size of an object is left in it"
            )
    yield from _problems_of_maps(db, sizes, strides)


def _problems_of_maps(
    db: Db, sizes: Sequence[tuple[int, int]], strides: Sequence[int]
) -> Iterator[str]:
    """Checks the settings of the attention maps against the maps that the network makes."""
    for key, given, actual in (
        ("att_sizes", db.att_sizes, sizes),
        ("att_ratios", db.att_ratios, strides),
    ):
        if given is not None and given != actual:
            yield (
                f"{key} says {_listed(given)}, and from db.input_size {list(db.input_size)} the "
                f"network makes {_listed(actual)}; leave it out"
            )


def _problems_of_ranges(ranges: Sequence[tuple[int, int]], side: int) -> Iterator[str]:
    """Checks that every object of a view with sides of ``side`` pixels has one map."""
    lows, highs = [low for low, _ in ranges], [high for _, high in ranges]
    given = f"att_ranges {_listed(ranges)}"
    if lows != sorted(set(lows), reverse=True):
        yield f"{given} must go from large objects to small ones"
    elif ranges and (lows[-1] != 0 or highs[0] < side - 1):
        yield f"{given} must reach from 0 to {side - 1} pixels, the largest object of a view"
    elif any(high < low for high, low in zip(highs[1:], lows, strict=False)):
        yield f"{given} leave a gap: objects of that size would be in no attention map"


def _listed(pairs: Sequence[object]) -> list[object]:
    return [list(pair) if isinstance(pair, tuple) else pair for pair in pairs]
