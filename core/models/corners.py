"""The functions around the network of a detector of corners."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from ..config.errors import UserError
from ..config.loading import Config, Db
from ..data.samples import CropSettings, sample_unchanged
from ..data.samples.corners import sample_corners
from ..decode.corners import decode_corners
from ..decode.peaks import peak_cells
from ..inference.corners import CornerSettings, detect_corners
from ..losses.corners import corner_losses
from ..structures import CornerMaps
from ..targets.corners import corner_targets
from .architecture import SACCADE_SETTINGS, refuse_unused
from .detector import Detector


def corner_detector(
    config: Config, num_classes: int, network: nn.Module, *, stride: int, stacks: int
) -> Detector:
    """Builds a detector of corners around its network.

    Args:
        config: config whose ``db`` section is for samples, targets, decoding and inference.
        num_classes: number of object classes C.
        network: network that returns a list of :class:`core.structures.CornerMaps`.
        stride: pixels per cell of the network's maps.
        stacks: number of stacks, each with heatmap heads of its own.
    """
    db = config.db
    refuse_unused(config, refused=["test_resolution"], idle=["test_nms", *SACCADE_SETTINGS])
    decode = corner_decoder(db, no_border=False, where=config.path)
    sample = partial(sample_corners, settings=CropSettings.of(db))
    return Detector(
        network=network,
        sample=sample if db.data_aug else partial(sample_unchanged, sample),
        targets=partial(
            corner_targets,
            num_classes=num_classes,
            output_size=db.output_size,
            gaussian_bump=db.gaussian_bump,
            gaussian_iou=db.gaussian_iou,
            gaussian_radius=db.gaussian_radius,
        ),
        losses=corner_losses,
        network_inputs=lambda targets: (targets.tl_index, targets.br_index),
        decode_inputs=decoded_cells(db),
        decode=lambda outputs: decode(outputs[-1]),
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
                stride=stride,
            ),
        ),
        class_head_keys=class_head_keys(stacks),
    )


def corner_decoder(db: Db, *, no_border: bool, where: str) -> Callable[[CornerMaps], Tensor]:
    """Makes a decoder: :func:`decode_corners` with the settings of a config's ``db`` section.

    Args:
        db: the section.
        no_border: refuse pairs with a corner in the first or last row or column of cells.
        where: file, for messages.

    Raises:
        UserError: more detections are asked for than there are pairs of corners.
    """
    if db.num_dets > db.top_k**2:
        raise UserError(
            f"{where}: db.num_dets {db.num_dets} is more than the {db.top_k**2} pairs of "
            f"db.top_k {db.top_k} corners; set it to at most {db.top_k**2}"
        )
    return partial(
        decode_corners,
        top_k=db.top_k,
        ae_threshold=db.ae_threshold,
        kernel=db.nms_kernel,
        num_dets=db.num_dets,
        no_border=no_border,
    )


def decoded_cells(db: Db) -> dict[str, Callable[[Tensor], Tensor]]:
    """Inputs of the network that find the cells which :func:`corner_decoder` reads."""
    find = partial(peak_cells, k=db.top_k, kernel=db.nms_kernel)
    return {"tl_cells": find, "br_cells": find}


def class_head_keys(stacks: int) -> tuple[str, ...]:
    """Prefixes of the state-dict keys of a corner network that depend on the number of classes."""
    return tuple(f"{corner}_heats.{stack}.1." for corner in ("tl", "br") for stack in range(stacks))
