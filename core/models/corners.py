"""The functions around the network of a detector of corners."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from ..config.errors import UserError
from ..config.loading import Config, Db
from ..data.samples.corners import sample_corners
from ..data.samples.fit import choose_sample
from ..decode.central_region import decode_central_region
from ..decode.corners import decode_centripetal, decode_corners
from ..decode.peaks import read_peaks
from ..inference.corners import CornerSettings, detect_corners
from ..layers.distribution import WIDEST_WINDOW
from ..layers.heads import Search
from ..losses.centripetal import centripetal_losses
from ..losses.corners import corner_losses
from ..losses.guided import guided_losses
from ..structures import Batch
from ..targets.centripetal import centripetal_targets
from ..targets.corners import corner_targets
from .architecture import (
    SACCADE_SETTINGS,
    UNUSED_WITH,
    HourglassArchitecture,
    PyramidArchitecture,
    refuse_unused,
)
from .detector import Detector

# Prefixes of the state-dict keys of the heads that only one pairing has.
PAIRING_HEAD_KEYS = (
    *("tl_tags.", "br_tags.", "tl_shifts.", "br_shifts.", "center_heats."),
    *("tl_offs.", "br_offs.", "tl_offset_bins.", "br_offset_bins."),
)


@dataclass(frozen=True)
class CornerModules:
    """What the ``model`` section of a detector of corners has beside its backbone.

    Attributes:
        pooling_channels: channels of the maps that are pooled.
        pairing: how corners of one object find each other: ``embedding``, by equal numbers, as
            published; ``centripetal``, by the size of the box, which each corner predicts, and by
            its centre, which a third heatmap finds; offsets are means of distributions then. On
            crowds of objects that look the same, embeddings cannot tell them from one another.
    """

    pooling_channels: int = 128
    pairing: Literal["embedding", "centripetal"] = "embedding"


@dataclass(frozen=True)
class CornerArchitecture(CornerModules, HourglassArchitecture):
    """The ``model`` section of a detector of corners on hourglasses."""


@dataclass(frozen=True)
class CornerPyramid(CornerModules, PyramidArchitecture):
    """The ``model`` section of a detector of corners on a pyramid over a backbone."""


def corner_detector(
    config: Config,
    network: nn.Module,
    architecture: HourglassArchitecture | PyramidArchitecture,
    pairing: "Pairing",
) -> Detector:
    """Builds a detector of corners around its network.

    Args:
        config: config whose ``db`` section is for samples, decoding and inference.
        network: network that returns a list of maps of corners.
        architecture: the ``model`` section that the network was built from.
        pairing: functions that train and pair the corners.
    """
    db = config.db
    idle = ["test_nms", *SACCADE_SETTINGS, *UNUSED_WITH[db.sampling]]
    refuse_unused(config, refused=["test_resolution"], idle=idle)
    return Detector(
        network=network,
        sample=choose_sample(db, sample_corners),
        targets=pairing.targets,
        losses=pairing.losses,
        network_inputs=lambda targets: (targets.tl_index, targets.br_index),
        decode_inputs=searched_cells(db),
        decode=lambda outputs: pairing.decode(outputs[-1]),
        infer=partial(
            detect_corners,
            settings=CornerSettings(
                test_scales=db.test_scales,
                test_flipped=db.test_flipped,
                nms_algorithm=db.nms_algorithm,
                nms_threshold=db.nms_threshold,
                merge_bbox=db.merge_bbox,
                weight_exp=db.weight_exp,
                max_per_image=db.max_per_image,
                reference_scoring=db.reference_scoring,
                stride=architecture.stride,
                fit_size=db.input_size if db.sampling == "fit" else None,
                coarsest_stride=architecture.coarsest_stride,
            ),
        ),
        class_head_keys=class_head_keys(architecture.stacks),
        pairing_head_keys=PAIRING_HEAD_KEYS,
    )


@dataclass(frozen=True)
class Pairing:
    """The functions that depend on how corners are paired, such as by ``model.pairing``.

    Attributes:
        targets: ``targets(batch)`` -> targets of the corners.
        losses: ``losses(outputs, targets, tl_valid=None, br_valid=None)`` -> weighted terms by
            name, from one entry of maps a stack.
        decode: ``decode(maps)`` -> float32 [B, n, 8], as
            :func:`core.decode.corners.decode_corners`.
    """

    targets: Callable[[Batch], Any]
    losses: Callable[..., dict[str, Tensor]]
    decode: Callable[[Any], Tensor]


def read_pairing(config: Config, num_classes: int, pairing: str, *, no_border: bool) -> Pairing:
    """Chooses the functions by which corners are trained and paired.

    Args:
        config: config whose ``db`` section has the settings.
        num_classes: number of object classes C.
        pairing: ``model.pairing``.
        no_border: refuse pairs with a corner in the first or last row or column of cells.

    Raises:
        UserError: more detections are asked for than there are pairs of corners, or a setting does
            not go with the pairing.
    """
    db, where = config.db, config.path
    rendered, decoded = _read_rendered(db, num_classes), _read_decoded(config)
    decoded["no_border"] = no_border
    if pairing == "centripetal":
        refuse_unused(config, refused=[], idle=["ae_threshold"])
        if db.regression_window > WIDEST_WINDOW:
            raise UserError(
                f"{where}: db.regression_window {db.regression_window} is more than the "
                f"{WIDEST_WINDOW} cells that offsets of model.pairing centripetal reach"
            )
        return Pairing(
            partial(centripetal_targets, window=db.regression_window, **rendered),
            centripetal_losses,
            partial(decode_centripetal, **decoded),
        )
    if db.regression_window != 1:
        raise UserError(
            f"{where}: db.regression_window {db.regression_window} goes with model.pairing "
            "centripetal; embeddings are trained at the corners alone, so leave it out"
        )
    return Pairing(
        partial(corner_targets, **rendered),
        corner_losses,
        partial(decode_corners, ae_threshold=db.ae_threshold, **decoded),
    )


def guided_pairing(config: Config, num_classes: int, stride: int) -> Pairing:
    """Makes the functions by which CentripetalNet's corners are trained and paired.

    Args:
        config, num_classes: as for :func:`read_pairing`, with the same errors.
        stride: pixels per cell of the heatmaps.
    """
    refuse_unused(config, refused=[], idle=["ae_threshold"])
    db = config.db
    render = partial(
        centripetal_targets,
        window=db.regression_window,
        centers=False,
        **_read_rendered(db, num_classes),
    )
    decode = partial(decode_central_region, stride=stride, **_read_decoded(config))
    return Pairing(render, guided_losses, decode)


def _read_rendered(db: Db, num_classes: int) -> dict[str, Any]:
    """Arguments of the functions that render targets."""
    return {
        "num_classes": num_classes,
        "output_size": db.output_size,
        "gaussian_bump": db.gaussian_bump,
        "gaussian_iou": db.gaussian_iou,
        "gaussian_radius": db.gaussian_radius,
    }


def _read_decoded(config: Config) -> dict[str, Any]:
    """Arguments of the functions that pair corners; errors as :func:`read_pairing`."""
    db = config.db
    if db.num_dets > db.top_k**2:
        raise UserError(
            f"{config.path}: db.num_dets {db.num_dets} is more than the {db.top_k**2} pairs of "
            f"db.top_k {db.top_k} corners; set it to at most {db.top_k**2}"
        )
    return {"top_k": db.top_k, "kernel": db.nms_kernel, "num_dets": db.num_dets}


def searched_cells(db: Db) -> dict[str, Search]:
    """Inputs of the network that find the cells which the decoders of corners read."""
    return {"search": partial(read_peaks, k=db.top_k, kernel=db.nms_kernel)}


def class_head_keys(stacks: int) -> tuple[str, ...]:
    """Prefixes of the state-dict keys of a corner network that depend on the number of classes."""
    heads = ("tl_heats", "br_heats", "center_heats")
    return tuple(f"{head}.{stack}.1." for head in heads for stack in range(stacks))
