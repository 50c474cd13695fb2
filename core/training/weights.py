"""The weights that a run starts from: those of one of its snapshots, or of another file."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..checkpoint.differences import differences
from ..checkpoint.snapshot import (
    averaged_path,
    has_averaged_weights,
    iteration_in_name,
    load_training_state,
    load_weights,
    read_meta,
    read_weights,
    require_unaltered,
    training_path,
)
from ..config.errors import UserError
from ..config.schema import System
from ..data.coco import CocoDetection
from ..models.detector import Detector
from .averaging import AveragedWeights
from .optimizer import learning_rate_at

logger = logging.getLogger(__name__)


def load_snapshot_(
    detector: Detector,
    path: Path,
    dataset: CocoDetection,
    system: System,
    chunks: Sequence[int],
    verify: bool = True,
) -> dict[str, Any] | None:
    """Loads a snapshot of the run into a detector.

    Args:
        detector: detector that gets the weights.
        path: the snapshot, ``<name>_<iteration>.pkl``.
        dataset: the training split.
        system: settings of the run that is resumed.
        chunks: images of every chunk of its steps.
        verify: compare the snapshot's files with their checksums.

    Returns:
        State of the optimizer; None if the snapshot has weights only.

    Raises:
        UserError: the snapshot is corrupt, or of another network, other classes, another optimizer.
    """
    meta = read_meta(path)
    if meta is not None:
        require_classes(meta.class_names, dataset, str(path))
    if verify:
        require_unaltered(path, training_path(path), averaged_path(path))
    state = load_training_state(path)
    load_weights(detector.network, path, detector.class_head_keys, verify=False)
    if state is None:
        logger.warning(
            "%s has weights only: the optimizer starts anew, the learning rate is %g by the "
            "iteration",
            path,
            learning_rate_at((iteration_in_name(path) or 0) + 1, system),
        )
        return None
    if state.get("opt_algo") != system.opt_algo:
        raise UserError(
            f"{path} was trained with {state.get('opt_algo')} and system.opt_algo is "
            f"{system.opt_algo}; --weights {path} starts from its weights alone"
        )
    before = state.get("backbone_lr", 1.0)
    if (before == 1) != (system.backbone_lr == 1):  # then the optimizer has other groups
        raise UserError(
            f"{path} was trained with system.backbone_lr {before:g}, and it is "
            f"{system.backbone_lr:g}: a run cannot change from or to 1; --weights {path} starts "
            "from its weights alone"
        )
    _warn_of_changes(state, system, chunks)
    optimizer_state: dict[str, Any] = state["optimizer"]
    return optimizer_state


def start_average(network: nn.Module, decay: float, snapshot: Path | None) -> AveragedWeights:
    """Starts to average a network's weights, or goes on with the average of a snapshot.

    Args:
        network: the network with the weights that the run starts from.
        decay: ``system.ema``.
        snapshot: the snapshot that these weights are of, whose files :func:`load_snapshot_` has
            compared with their checksums; None: a run that starts from step 1. If it has no
            averaged weights, a line says so.

    Raises:
        UserError: the averaged weights are not those of such a network.
    """
    average = AveragedWeights(network, decay)
    if snapshot is None:
        return average
    meta, path = read_meta(snapshot), averaged_path(snapshot)
    if meta is None or not has_averaged_weights(snapshot):
        logger.warning("%s has no averaged weights: the average starts from its weights", snapshot)
        return average
    weights = read_weights(path)
    found = differences(network.state_dict(), weights)
    if found.count:
        raise UserError(f"{path} does not fit this network: {found}")
    average.load_(weights, meta.averaged_steps or 0)
    return average


def load_start_weights_(detector: Detector, weights: str | None) -> None:
    """Loads a file of weights, of any number of classes, into a detector.

    Args:
        detector: detector that gets the weights; its class heads keep their initial weights if the
            number of classes differs, and the heads that pair corners if the pairing does.
        weights: file of weights. None: the detector's pretrained parts are loaded, if it has any.
    """
    if weights is None:
        if detector.load_pretrained_ is not None:
            detector.load_pretrained_()
        return
    left = load_weights(
        detector.network,
        weights,
        detector.class_head_keys,
        fine_tune=True,
        pairing_head_keys=detector.pairing_head_keys,
    )
    logger.info("weights: %s", weights)
    if left:
        logger.info(
            "other classes or another pairing of corners: freshly initialised: %s", ", ".join(left)
        )


def require_classes(names: Sequence[str], dataset: CocoDetection, owner: str) -> None:
    """Refuses classes that are not those of the training split.

    Args:
        names: names of the classes.
        dataset: the training split.
        owner: file that has these classes, for the message.

    Raises:
        UserError: the classes differ.
    """
    if tuple(names) != tuple(dataset.class_names):
        raise UserError(
            f"{owner} has the classes {', '.join(names)}, and {dataset.annotation_file} has "
            f"{', '.join(dataset.class_names)}; they must be the same"
        )


def _warn_of_changes(state: Mapping[str, Any], system: System, chunks: Sequence[int]) -> None:
    """Warns of settings that make later steps differ from those of an uninterrupted run."""
    now = {"batch_size": system.batch_size, "seed": system.seed}
    for key, value in now.items():
        if state[key] != value:
            logger.warning(
                "system.%s was %s and is %s: the images of the steps to come are not those that "
                "the run would have seen",
                key,
                state[key],
                value,
            )
    if state.get("chunks", list(chunks)) != list(chunks):
        logger.warning(
            "the chunks of a step were %s and are %s: the steps to come are not those that the "
            "run would have made",
            state["chunks"],
            list(chunks),
        )
