"""The ``model`` section of a config, read and checked; ``db`` settings that a model cannot use."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, TypeVar

from ..config.errors import UserError
from ..config.loading import Config
from ..config.parsing import parse_section
from ..config.schema import Db
from ..config.suggestions import nearest
from ..layers.backbones import NAMES, STRIDES, TIMM

logger = logging.getLogger(__name__)

HOURGLASS = "hourglass"  # the ``model.backbone`` of networks without a pyramid
TEST_SIDE = 128  # pixels; hourglasses' test images are padded to multiples, so none may halve more

# Settings that only CornerNet-Saccade has.
SACCADE_SETTINGS = (
    *("rand_center", "min_scale", "init_sizes", "ref_dets"),
    *("att_sizes", "att_ranges", "att_ratios", "att_scales"),
    *("att_thresholds", "att_nms_ks", "att_max_crops"),
)

# Settings that do nothing with each ``db.sampling``.
UNUSED_WITH = {
    "crop": ("zoom", "shift", "vertical_flip", "quarter_turns", "mosaic"),
    "fit": (
        *("rand_crop", "border", "rand_scales"),
        *("rand_scale_min", "rand_scale_max", "rand_scale_step"),
    ),
}


class Architecture(Protocol):
    """Numbers that a fully convolutional network is made from; a frozen dataclass."""

    @property
    def stride(self) -> int:
        """Pixels per cell of the heatmaps."""
        ...

    @property
    def coarsest_stride(self) -> int:
        """Pixels per cell of the coarsest map that is doubled again."""
        ...

    def check(self, where: str) -> None:
        """Refuses numbers from which no network can be made.

        Args:
            where: file and section, for messages.
        """
        ...


AnyArchitecture = TypeVar("AnyArchitecture", bound=Architecture)


@dataclass(frozen=True)
class HourglassArchitecture:
    """Stacked hourglasses; by default hourglass-104 (CornerNet, section 3.6).

    Attributes:
        backbone: the ``model.backbone`` that chooses this section.
        stacks: number of hourglasses, one after the other.
        stem_channels: channels of the layers before them; each halves the size, so their number
            determines the stride.
        channels: channels of an hourglass' levels, finest first; each level but the first halves
            the size.
        blocks: number of blocks in each part of a level, level by level; the last number is that of
            the coarsest level.
        head_channels: channels of a stack's features and of the layers that read them.
    """

    backbone: str = HOURGLASS
    stacks: int = 2
    stem_channels: tuple[int, ...] = (128, 256)
    channels: tuple[int, ...] = (256, 256, 384, 384, 384, 512)
    blocks: tuple[int, ...] = (2, 2, 2, 2, 2, 4)
    head_channels: int = 256

    @property
    def stride(self) -> int:
        """Pixels per cell of the heatmaps."""
        return 2 ** len(self.stem_channels)

    @property
    def coarsest_stride(self) -> int:
        """Pixels per cell of the coarsest map of an hourglass."""
        return self.stride * 2 ** (len(self.channels) - 1)

    def check(self, where: str) -> None:
        """Refuses numbers from which no network can be made.

        Args:
            where: file and section, for messages.

        Raises:
            UserError: a count below 1, or lists that don't go together.
        """
        require_counts(self, where)
        if len(self.channels) < 2:
            raise UserError(f"{where}.channels must name at least two levels, as in [64, 96]")
        if len(self.blocks) != len(self.channels):
            raise UserError(
                f"{where}.blocks names {len(self.blocks)} levels and {where}.channels "
                f"{len(self.channels)}; give both one number a level"
            )
        if self.channels[0] != self.stem_channels[-1]:
            raise UserError(
                f"{where}.channels starts with {self.channels[0]} and {where}.stem_channels ends "
                f"with {self.stem_channels[-1]}; make them equal"
            )
        if self.coarsest_stride > TEST_SIDE:
            raise UserError(
                f"{where}.stem_channels and {where}.channels halve the image to 1/"
                f"{self.coarsest_stride}; 1/{TEST_SIDE} is the most, so give fewer levels"
            )


@dataclass(frozen=True)
class PyramidArchitecture:
    """A pyramid over a backbone (:mod:`core.layers.pyramid`), which is as deep as it is published.

    Attributes:
        backbone: a name that :func:`core.layers.backbones.make_backbone` takes.
        backbone_weights: ImageNet weights that training starts from, as
            :func:`.pretrained.load_backbone_` takes them: a file, or ``package``; None: training
            starts from scratch. A trained detector has its weights, and needs neither.
        stride: pixels per cell of the heatmaps.
        head_channels: channels of the merged map and of the layers that read it.
    """

    backbone: str = "efficientnet_lite0"
    backbone_weights: str | None = None
    stride: Literal[4, 8] = 8
    head_channels: int = 256

    @property
    def stacks(self) -> int:
        """Number of stacks with heads of their own."""
        return 1

    @property
    def coarsest_stride(self) -> int:
        """Pixels per cell of the backbone's coarsest map."""
        return STRIDES[-1]

    def check(self, where: str) -> None:
        """Refuses counts below 1, and backbones that there are not.

        Args:
            where: file and section, for messages.
        """
        require_counts(self, where)
        require_backbone(self.backbone, (HOURGLASS, *NAMES), where)


def require_backbone(name: str, names: Iterable[str], where: str) -> None:
    """Refuses a ``model.backbone`` that is neither one of ``names`` nor a network of timm.

    Args:
        name: the backbone.
        names: what else the detector takes.
        where: file and section, for messages.
    """
    names = tuple(names)
    if name not in names and not name.startswith(TIMM):
        raise UserError(
            f"{where}.backbone: {name!r} must be one of {', '.join(names)}, or {TIMM}NAME for a "
            f"network of timm{nearest(name, names)}"
        )


def require_counts(architecture: Architecture, where: str) -> None:
    """Refuses numbers of channels, blocks and so on below 1, and empty lists of them.

    Args:
        architecture: a dataclass; its strings and booleans are ignored.
        where: file and section, for messages.
    """
    for name, value in vars(architecture).items():
        counts = value if isinstance(value, tuple) else (value,)
        if not counts or any(type(count) is int and count < 1 for count in counts):
            raise UserError(f"{where}.{name} must hold numbers of at least 1")


def on_hourglasses(config: Config) -> bool:
    """True if a config's ``model.backbone`` chooses hourglasses, as it does by default."""
    return bool(config.model.get("backbone", HOURGLASS) == HOURGLASS)


def read_architecture(schema: type[AnyArchitecture], config: Config) -> AnyArchitecture:
    """Reads a config's ``model`` section and checks it, alone and against the ``db`` section.

    Args:
        schema: a frozen dataclass with a default for every field.
        config: the config.

    Raises:
        UserError: unknown key, wrong type, numbers from which no network can be made, or sizes in
            ``db`` that don't fit the network.
    """
    where = f"{config.path}: model"
    if issubclass(schema, HourglassArchitecture) and not on_hourglasses(config):
        raise UserError(
            f"{where}.backbone: {config.model_name} is made of hourglasses alone, not of "
            f"{config.model['backbone']!r}; leave that out, or take CornerNet, CenterNet or "
            "FasterRCNN"
        )
    _refuse_keys_of_others(schema, config.model, where)
    architecture = parse_section(schema, config.model, where)
    architecture.check(where)
    _check_sizes(config, architecture.stride, architecture.coarsest_stride)
    return architecture


def _refuse_keys_of_others(
    schema: type[Architecture], section: Mapping[str, Any], where: str
) -> None:
    """Refuses keys that a section has with another ``model.backbone``, and says with which."""
    known = {field.name for field in fields(schema)}  # type: ignore[arg-type]
    for key in section:
        for other, owner in (
            (HourglassArchitecture, f"{HOURGLASS!r} has"),
            (PyramidArchitecture, "other backbones have"),
        ):
            if key not in known and key in {field.name for field in fields(other)}:
                backbone = section.get("backbone", HOURGLASS)
                raise UserError(
                    f"{where}: unknown key {key!r} with model.backbone {backbone!r}; leave it out: "
                    f"{owner} it"
                )


def _check_sizes(config: Config, stride: int, coarsest_stride: int) -> None:
    """Refuses sizes of images and maps that don't fit a network, and says which ones fit."""
    height, width = config.db.input_size
    cells = (-(-height // stride), -(-width // stride))  # each of the stem's layers rounds up
    if any(side % (coarsest_stride // stride) for side in cells):
        near = [side | (coarsest_stride - 1) for side in (height, width)]
        raise UserError(
            f"{config.path}: db.input_size {[height, width]} cannot be halved to "
            f"1/{coarsest_stride} and doubled again; give multiples of {coarsest_stride} or up to "
            f"{stride - 1} pixels less, such as {near}"
        )
    if config.db.output_size != cells:
        raise UserError(
            f"{config.path}: db.output_sizes says {list(config.db.output_size)}, and from "
            f"db.input_size {[height, width]} the network makes {list(cells)}; set db.output_sizes "
            f"to [{list(cells)}]"
        )


def refuse_unused(config: Config, refused: Iterable[str], idle: Iterable[str] = ()) -> None:
    """Reports ``db`` settings that do nothing in a model and differ from their defaults.

    Args:
        config: the config.
        refused: settings that a user would expect to change the results.
        idle: settings of steps that the model does not have; they get a notice.

    Raises:
        UserError: one of the ``refused`` differs from its default.
    """
    given, default = vars(config.db), vars(Db())
    where, model = config.path, config.model_name
    wrong = [f"db.{key}" for key in refused if given[key] != default[key]]
    if wrong:
        raise UserError(f"{where}: {model} has no use for {', '.join(wrong)}; leave that out")
    ignored = [f"db.{key}" for key in idle if given[key] != default[key]]
    if ignored:
        logger.info("%s: %s does not use %s", where, model, ", ".join(ignored))
