"""Detectors with their weights, ready to use.

from cornerkit import load_detector

detect = load_detector("CornerNet_Squeeze", snapshot="CornerNet_Squeeze_500000.pkl")
detect(image)["person"]  # float32 [n, 5]: x0, y0, x1, y1, score
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from .. import models
from ..checkpoint.run_directory import RunDirectory
from ..checkpoint.snapshot import (
    averaged_path,
    fit_weights_,
    has_averaged_weights,
    iteration_in_name,
    read_meta,
    read_weights,
    require_unaltered,
)
from ..config.errors import UserError
from ..config.loading import Config, load_config
from ..data.coco import COCO_CLASS_NAMES
from .detector import Detector
from .device import choose_device, move_to_device_
from .ready import ReadyDetector

logger = logging.getLogger(__name__)


class LoadedDetector(ReadyDetector):
    """A detector with trained weights; :func:`load_detector` makes it.

    Args:
        detector: detector with its weights, its network on ``device``.
        config: the config that it was built from.
        class_names: C names.
        names_known: true if the names came with the weights, false if they were guessed.
        snapshot: the file of the weights.
        iteration: number of steps that trained the weights; None: unknown.
        device: device of the network.
    """

    def __init__(
        self,
        detector: Detector,
        config: Config,
        class_names: Sequence[str],
        names_known: bool,
        snapshot: Path,
        iteration: int | None,
        device: torch.device,
    ) -> None:
        half = config.system.precision == "bfloat16"
        super().__init__(detector.infer, detector.predict(device, half), class_names)
        self.detector, self.device, self.names_known = detector, device, names_known
        self.config, self.snapshot, self.iteration = config, snapshot, iteration
        detector.network.eval()


def load_detector(
    name: str,
    snapshot: str | Path | int | None = None,
    device: str | torch.device | None = None,
    *,
    suffix: str | None = None,
    overrides: Sequence[str] = (),
    config_dir: str | Path | None = None,
) -> LoadedDetector:
    """Builds the detector of a config and loads trained weights into it.

    Args:
        name: a config's name, such as ``CornerNet_Squeeze``, or the path of a ``.json`` file.
        snapshot: a file of weights, ours or the reference's; or of the run in the config's
            ``cache_dir`` an iteration, ``"best"`` for the weights with the highest AP, or
            ``"last"`` for the newest, as None does. Of a snapshot with averaged weights, those are
            taken, unless the file is named.
        device: device of the network; None: a GPU if there is one.
        suffix: suffix of the config alone: ``multi_scale`` reads ``<name>-multi_scale.json``, with
            the weights of ``name``.
        overrides: changes to the config, such as ``db.top_k=50``.
        config_dir: folder of the configs.

    Raises:
        UserError: no such config, no such snapshot, weights that do not fit, no such device.
    """
    config = load_config(name, suffix, overrides, config_dir)
    run = config.name.removesuffix(f"-{suffix}") if suffix else config.name
    path, iteration = _find_snapshot(config, run, snapshot)
    chosen = choose_device(device)
    meta = read_meta(path)
    require_unaltered(path)
    weights = read_weights(path)
    if meta is not None:
        class_names, iteration = meta.class_names, meta.iteration
    else:
        class_names = _guess_class_names(_count_classes(config, weights))
    detector = models.build(config, len(class_names))
    keys, pairing = detector.class_head_keys, detector.pairing_head_keys
    fit_weights_(detector.network, weights, path, keys, pairing_head_keys=pairing)
    move_to_device_(detector.network, chosen, config.system.channels_last, training=False)
    return LoadedDetector(detector, config, class_names, meta is not None, path, iteration, chosen)


def _find_snapshot(
    config: Config, run: str, snapshot: str | Path | int | None
) -> tuple[Path, int | None]:
    """Finds the file of the weights, and their iteration if it is known."""
    directory = RunDirectory(config.system.cache_dir, run)
    if isinstance(snapshot, str) and snapshot.isdecimal():
        snapshot = int(snapshot)
    if snapshot == "best":
        return _find_best(directory), None
    newest = directory.newest()
    if isinstance(snapshot, int):
        path, iteration = directory.snapshot(snapshot), snapshot
    elif snapshot not in (None, "last"):
        return _named(Path(snapshot)), iteration_in_name(Path(snapshot))
    elif newest is not None:
        path, iteration = newest
    else:
        raise UserError(
            f"there is no snapshot in {directory.path}; train {run} first, or name a file"
        )
    if has_averaged_weights(path):
        logger.info(
            "the averaged weights %s; --snapshot %s takes the raw ones", averaged_path(path), path
        )
        path = averaged_path(path)
    return path, iteration


def _find_best(directory: RunDirectory) -> Path:
    """Finds the weights with the highest AP of a run."""
    path = directory.best
    if not path.is_file():
        raise UserError(
            f"there is no {path}; evaluations while training write it (system.eval_iter), and "
            "--snapshot last takes the newest snapshot"
        )
    meta = read_meta(path)
    if meta is not None and directory.is_left_over(meta):
        raise UserError(
            f"{path} is of an earlier run in this folder, of its iteration {meta.iteration}; "
            f"--snapshot last takes the newest snapshot, and --snapshot {path} this one"
        )
    return path


def _named(path: Path) -> Path:
    """Returns a file that was named, unless it can only be meant as another choice."""
    if not os.path.exists(path) and path.name == str(path) and not path.suffix:
        raise UserError(
            f"--snapshot {path}: there is no such file; it takes best, last, the number of an "
            "iteration, or a file"
        )
    return path


def _count_classes(config: Config, weights: Mapping[str, Tensor]) -> int:
    """Counts the classes of weights without a description, from the shape of their class heads."""
    with torch.device("meta"):
        one, two = (models.build(config, count).network.state_dict() for count in (1, 2))
    for key, head in one.items():
        a_class = two[key].numel() - head.numel()  # entries a class; the background may have some
        if a_class and key in weights:
            return max(1, 1 + (weights[key].numel() - head.numel()) // a_class)
    return 1  # another network's weights: loading them says what differs


def _guess_class_names(num_classes: int) -> tuple[str, ...]:
    if num_classes == len(COCO_CLASS_NAMES):
        return COCO_CLASS_NAMES
    return tuple(f"class {label}" for label in range(num_classes))
