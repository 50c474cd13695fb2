"""Training and evaluation as functions, with their results as objects.

import cornerkit

result = cornerkit.train("mine", max_iter=2000)
metrics = cornerkit.evaluate("mine")
detect = cornerkit.load_detector("mine")
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from .checkpoint.run_directory import RunDirectory
from .checkpoint.snapshot import read_meta
from .config.loading import load_config
from .config.schema import Db, System
from .evaluation import evaluator
from .evaluation.coco import Metrics
from .evaluation.command import open_dataset
from .models.device import choose_device, make_current
from .models.loading import load_detector
from .training import loop
from .training.command import describe, open_log
from .training.run import TrainingRun, prepare

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """What a training run has written.

    Attributes:
        folder: folder of the snapshots and of the log, ``log.jsonl``.
        iteration: number of steps that trained the last weights.
        last: the last snapshot.
        best: the weights with the highest AP; None without evaluations (``eval_iter``).
        metrics: COCO's metrics of ``best``, by the names in :data:`core.evaluation.coco.METRICS`;
            None without evaluations.
    """

    folder: Path
    iteration: int
    last: Path
    best: Path | None
    metrics: Mapping[str, float | None] | None


def train(
    name: str,
    *,
    resume: bool | int = False,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    overrides: Sequence[str] = (),
    config_dir: str | Path | None = None,
    **settings: Any,
) -> TrainingResult:
    """Trains a detector in this process, as `cornerkit train` does.

    Args:
        name: a config's name, or the path of a ``.json`` file.
        resume: True: from the newest valid snapshot, if there is one; a number: from the snapshot
            of that iteration.
        weights: file of weights to start from instead.
        device: device to train on; None: a GPU if there is one.
        overrides: changes to the config, such as ``db.top_k=50``.
        config_dir: folder of the configs.
        settings: changes to settings by their names alone, such as ``max_iter=2000``.

    Raises:
        UserError: the config, the data or the weights cannot be used.
        Stopped: by Ctrl-C, SIGTERM or the death of a worker; all steps were saved.
        NonFiniteLoss: a loss or a gradient is infinite or not a number.
        OSError: the last snapshot could not be written; the log line before says why.
    """
    config = load_config(name, None, [*overrides, *_overrides(settings)], config_dir)
    chosen = choose_device(device)
    make_current(chosen)
    iteration = None if isinstance(resume, bool) else resume
    if resume is True:
        iteration = RunDirectory(config.system.cache_dir, config.name).latest_valid()
    file = None if weights is None else str(weights)
    run = prepare(config, chosen, iteration=iteration, weights=file, verify=resume is not True)
    for line in describe(run):
        logger.info("%s", line)
    with run.snapshots:
        loop.train(run, open_log(run))
    return _result(run)


def evaluate(
    name: str,
    snapshot: str | Path | int | None = None,
    *,
    split: str = "validation",
    device: str | torch.device | None = None,
    overrides: Sequence[str] = (),
    config_dir: str | Path | None = None,
    **settings: Any,
) -> Metrics:
    """Scores a trained detector, as `cornerkit evaluate` does, but writes no files.

    Args:
        name, snapshot, device, overrides, config_dir: as for
            :func:`core.models.loading.load_detector`.
        split: ``training``, ``validation`` or ``testing``.
        settings: changes to settings by their names alone, such as ``max_per_image=300``.

    Returns:
        The metrics; ``metrics.scores.metrics["AP"]`` and ``metrics.scores.ap_by_class``.

    Raises:
        UserError: the config, the snapshot or the data cannot be used.
        EvaluationError: the detector failed on an image.
    """
    changes = [*overrides, *_overrides(settings)]
    loaded = load_detector(name, snapshot, device, overrides=changes, config_dir=config_dir)
    dataset = open_dataset(loaded, split)
    return evaluator.evaluate(loaded.detector, dataset, loaded.config, show_progress=True)


def _overrides(settings: Mapping[str, Any]) -> Iterator[str]:
    """Writes settings as overrides, each with its section; unknown ones go to the model's."""
    sections = {key.name: name for name in (System, Db) for key in fields(name)}
    for key, value in settings.items():
        section = sections[key].__name__.lower() if key in sections else "model"
        yield f"{section}.{key}={json.dumps(value, default=str)}"


def _result(run: TrainingRun) -> TrainingResult:
    """Collects what a run that has ended wrote."""
    directory, saved = run.directory, run.snapshots.saved
    if run.snapshots.failed or saved is None:
        raise OSError(f"the last snapshot was not written in {directory.path}")
    meta = read_meta(directory.best) if directory.best.is_file() else None
    if meta is None or directory.is_left_over(meta):
        return TrainingResult(directory.path, saved, directory.snapshot(saved), None, None)
    return TrainingResult(
        directory.path, saved, directory.snapshot(saved), directory.best, meta.metrics
    )
