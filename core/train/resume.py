"""The weights that a run starts from: those of one of its snapshots, or of another file."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checkpoint import snapshot as checkpoint
from ..checkpoint.meta import require_unaltered
from ..config.errors import UserError
from ..config.loading import System
from ..data.coco import CocoDetection
from ..models.detector import Detector
from .optimizer import learning_rate_at

logger = logging.getLogger(__name__)


def take_snapshot_(
    detector: Detector,
    path: Path,
    iteration: int,
    dataset: CocoDetection,
    system: System,
    chunks: Sequence[int],
    whole: bool = False,
) -> dict[str, Any] | None:
    """Gives a detector the weights of a snapshot of its run.

    Args:
        detector: takes the weights.
        path: the snapshot.
        iteration: steps behind it.
        dataset: the training split.
        system: of the run that goes on.
        chunks: pictures of every chunk of its steps.
        whole: its files are known to be what was saved.

    Returns:
        The state of the optimiser; None where the weights stand alone.

    Raises:
        UserError: the snapshot is damaged, or of another network, other classes, another optimiser.
    """
    meta = checkpoint.read_meta(path)
    if meta is not None:
        require_classes(meta.class_names, dataset, str(path))
    if not whole:
        require_unaltered(path, checkpoint.training_path(path))
    state = checkpoint.load_training_state(path)
    checkpoint.load_weights(detector.network, path, detector.class_head_keys, verify=False)
    if state is None:
        rate = learning_rate_at(
            iteration + 1, system.learning_rate, system.stepsize, system.decay_rate
        )
        logger.warning(
            "%s has weights alone: the optimiser starts anew, the learning rate is %g by the "
            "iteration",
            path,
            rate,
        )
        return None
    if state.get("opt_algo") != system.opt_algo:
        raise UserError(
            f"{path} was trained with {state.get('opt_algo')} and system.opt_algo is "
            f"{system.opt_algo}; --weights {path} starts from its weights alone"
        )
    _tell_changes(state, system, chunks)
    optimizer_state: dict[str, Any] = state["optimizer"]
    return optimizer_state


def _tell_changes(state: Mapping[str, Any], system: System, chunks: Sequence[int]) -> None:
    """Warns of settings by which the steps to come differ from those of the run before."""
    now = {"batch_size": system.batch_size, "seed": system.seed}
    for key, value in now.items():
        if state[key] != value:
            logger.warning(
                "system.%s was %s and is %s: the pictures of the steps to come are not those that "
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


def take_weights_(detector: Detector, weights: str | None) -> None:
    """Gives a detector the weights of a file of any number of classes.

    Args:
        detector: takes the weights; the heads of the classes start anew where the number differs.
        weights: see :func:`core.checkpoint.snapshot.read_weights`. None: what the detector has
            learnt elsewhere, if anything.
    """
    if weights is None:
        if detector.load_pretrained_ is not None:
            detector.load_pretrained_()
        return
    left = checkpoint.load_weights(
        detector.network, weights, detector.class_head_keys, fine_tune=True
    )
    logger.info("weights: %s", weights)
    if left:
        logger.info("another number of classes: freshly initialised: %s", ", ".join(left))


def require_classes(names: Sequence[str], dataset: CocoDetection, owner: str) -> None:
    """Refuses classes that are not those of the training split.

    Raises:
        UserError: naming ``owner``, whose classes they are.
    """
    if tuple(names) != tuple(dataset.class_names):
        raise UserError(
            f"{owner} has the classes {', '.join(names)}, and {dataset.annotation_file} has "
            f"{', '.join(dataset.class_names)}; they must be the same"
        )
