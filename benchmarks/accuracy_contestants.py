"""The contestants of `benchmarks.accuracy`: each trains for a time, then detects."""

import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

import core
from core import models
from core.checkpoint.run_directory import RunDirectory
from core.config.files import CONFIG_DIR
from core.config.loading import load_config
from core.data.coco import CocoDetection
from core.models.device import choose_device

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]
_PROGRAMS = {  # the words of a command that `cornerkit new` prints, and what runs them here
    "cornerkit": [sys.executable, "-m", "core.cli"],
    "python": [sys.executable],
    "torchrun": [sys.executable, "-m", "torch.distributed.run"],
}
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


class RunFailed(RuntimeError):
    """A contestant ended with an error: the message says which of its programs and how."""


@dataclass(frozen=True)
class Task:
    """What all contestants have in common.

    Attributes:
        data: folder of the dataset.
        datasets: its splits ``train`` and ``val``.
        minutes: time of training.
        device: where they train.
        threads: number of cores that this process and those that it starts may use.
        work: folder for what the runs write.
    """

    data: Path
    datasets: dict[str, CocoDetection]
    minutes: float
    device: torch.device
    threads: int
    work: Path


@dataclass(frozen=True)
class Trained:
    """What a run gives.

    Attributes:
        seconds: wall-clock time of its training.
        parameters: number of the network's trained numbers.
        results: detections on the validation split in COCO's format.
        work: how much was trained: ``steps`` or ``epochs``, and what else is worth noting.
        versions: versions of the packages that trained it.
    """

    seconds: float
    parameters: int
    results: Sequence[dict[str, Any]]
    work: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


class Contestant(Protocol):
    """A way to train a detector."""

    @property
    def name(self) -> str:
        """Name in the JSON lines and in the table."""

    def run(self, seed: int, folder: Path, task: Task) -> Trained:
        """Trains with a seed and detects; writes into ``folder`` only.

        Raises:
            RunFailed: a program ended with an error.
        """


@dataclass(frozen=True)
class Ours:
    """A detector of this package, by the commands of the README.

    Attributes:
        config: name or file of a config that is trained as it is, on the task's dataset; None for
            the config that ``cornerkit new`` writes.
        detector: the detector that ``cornerkit new`` is asked for; None for its own choice.
    """

    config: str | None = None
    detector: str | None = None

    @property
    def name(self) -> str:
        return load_config(self.config).name if self.config else self.detector or "cornerkit"

    def run(self, seed: int, folder: Path, task: Task) -> Trained:
        # Only where it is not the default: several processes may have a GPU each.
        on_device = [] if task.device == choose_device() else ["--device", str(task.device)]
        places = {"cache_dir": str(folder / "cache"), "result_dir": str(folder / "results")}
        if self.config is None:
            config_dir = folder / "configs"
            command, environment = self._new(config_dir, task, on_device)
            (file,) = config_dir.glob("*.json")
            chosen = [file.stem, "--config-dir", str(config_dir)]
        else:
            config_dir, chosen = CONFIG_DIR, [self.config]
            command, environment = [sys.executable, "train.py", *chosen], {}
            where = task.data.absolute()
            places |= {"data_dir": str(where.parent), "dataset_dir": where.name}
            places |= {"train_split": "train", "val_split": "val"}
        overrides = [f"system.{key}={value}" for key, value in places.items()]
        overrides.append(f"system.seed={seed}")
        sets = [word for override in overrides for word in ("--set", override)]
        seconds = run([*command, *on_device, *sets], environment)
        evaluation = [sys.executable, "evaluate.py", *chosen, "--split", "validation"]
        run([*evaluation, *on_device, *sets])
        config = load_config(chosen[0], overrides=overrides, config_dir=config_dir)
        newest = RunDirectory(config.system.cache_dir, config.name).newest()
        assert newest is not None  # it was evaluated
        results = Path(config.system.result_dir) / config.name / str(newest[1]) / "validation"
        network = models.build(config, len(task.datasets["train"].class_names)).network
        return Trained(
            seconds=seconds,
            parameters=sum(each.numel() for each in network.parameters() if each.requires_grad),
            results=json.loads((results / "results.json").read_text()),
            work={"steps": newest[1], "batch_size": config.system.batch_size},
            versions={"torch": torch.__version__, "cornerkit": core.__version__},
        )

    def _new(
        self, config_dir: Path, task: Task, on_device: list[str]
    ) -> tuple[list[str], dict[str, str]]:
        """Has the config written; returns the command that trains it, and its variables."""
        data = ["--data", str(task.data.absolute()), "--minutes", f"{task.minutes:g}"]
        name = f"{self.detector}-accuracy" if self.detector else "accuracy"
        command = [sys.executable, "-m", "core.cli", "new", name, *data]
        command += ["--config-dir", str(config_dir), *on_device]
        _announce(command)
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        sys.stderr.write(done.stdout)
        if done.returncode:
            raise RunFailed(f"`cornerkit new` ended with exit code {done.returncode}")
        return train_command(done.stdout)


def train_command(output: str) -> tuple[list[str], dict[str, str]]:
    """Finds the command in the last line that ``cornerkit new`` printed.

    Returns:
        The command with this Python, and the variables that are set before it.

    Raises:
        RunFailed: the last line is not a command.
    """
    lines = [line for line in output.splitlines() if line.strip()]
    words = shlex.split(lines[-1]) if lines else []
    environment = {}
    while words and _ASSIGNMENT.match(words[0]):
        key, _, value = words.pop(0).partition("=")
        environment[key] = value
    if not words or words[0] not in _PROGRAMS:
        raise RunFailed("the last line of `cornerkit new` is no command that trains")
    return [*_PROGRAMS[words[0]], *words[1:]], environment


@dataclass(frozen=True)
class Peer:
    """A detector of another package, by a script that trains, detects and writes a JSON file.

    The script gets ``--data DIR --minutes M --seed N --threads T --device D --out FILE`` and writes
    ``{"seconds", "parameters", "work", "versions", "detections": [{"image", "label", "bbox",
    "score"}, …]}``: the number of the image in the val split, the number of the class, and a box
    (x, y, width, height) in pixels.

    Attributes:
        name: name in the JSON lines and in the table.
        python: interpreter that has the package.
        script: arguments that make it run the script.
        yolo_layout: write the dataset in YOLO's layout for it, in the run's folder.
    """

    name: str
    python: str
    script: Sequence[str]
    yolo_layout: bool = False

    def problem(self, statement: str, folder: Path) -> str | None:
        """Says why the interpreter fails on a statement; None if it does not.

        Args:
            statement: imports the package.
            folder: folder for the package's settings.
        """
        command = [self.python, "-c", statement]
        environment = {**os.environ, **quiet(folder)}
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
        except OSError as error:
            return error.strerror
        lines = done.stderr.strip().splitlines()
        return None if done.returncode == 0 else lines[-1] if lines else "it fails"

    def run(self, seed: int, folder: Path, task: Task) -> Trained:
        data = task.data.absolute()
        if self.yolo_layout:
            data = folder / "yolo"
            for split, dataset in task.datasets.items():
                write_yolo_split(dataset, data, split)
        out = folder / "found.json"
        arguments = {
            "data": data,
            "minutes": task.minutes,
            "seed": seed,
            "threads": task.threads,
            "device": task.device,
            "out": out,
        }
        pairs = [word for key, value in arguments.items() for word in (f"--{key}", str(value))]
        run([self.python, *self.script, *pairs], quiet(folder))
        found = json.loads(out.read_text())
        return Trained(
            seconds=found["seconds"],
            parameters=found["parameters"],
            results=as_results(found["detections"], task.datasets["val"]),
            work=found["work"],
            versions=found["versions"],
        )


def quiet(folder: Path) -> dict[str, str]:
    """Returns variables by which Ultralytics installs and sends nothing; its settings go there."""
    offline = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    return {**offline, "YOLO_CONFIG_DIR": str(folder)}


def as_results(detections: Sequence[dict[str, Any]], val: CocoDetection) -> list[dict[str, Any]]:
    """Gives a peer's detections the dataset's ids of images and categories."""
    return [
        {
            "image_id": int(val.image_ids[each["image"]]),
            "category_id": int(val.category_ids[each["label"]]),
            "bbox": each["bbox"],
            "score": each["score"],
        }
        for each in detections
    ]


def write_yolo_split(dataset: CocoDetection, folder: Path, split: str) -> None:
    """Writes a split in YOLO's layout: ``images/<split>/``, ``labels/<split>/``, ``data.yaml``.

    Image i becomes ``<i, six digits>.<ending>``, a link to the file where links are possible. A
    line of its text file is ``label x y width height``, the middle and the sides of a box as
    fractions of the image's sides; labels are in the order of the category ids.
    """
    images, labels = folder / "images" / split, folder / "labels" / split
    for each in (images, labels):
        each.mkdir(parents=True, exist_ok=True)
    for index in range(len(dataset)):
        source = dataset.image_path(index).absolute()
        target = images / f"{index:06d}{source.suffix.lower()}"
        try:
            target.symlink_to(source)
        except OSError:
            shutil.copyfile(source, target)
        boxes = dataset.boxes(index).astype(float)
        height, width = dataset.sizes[index].tolist()
        middles, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        rows = [
            f"{label} {x / width:.8f} {y / height:.8f} {w / width:.8f} {h / height:.8f}\n"
            for label, (x, y), (w, h) in zip(
                dataset.labels(index).tolist(), middles.tolist(), sides.tolist(), strict=True
            )
        ]
        (labels / f"{index:06d}.txt").write_text("".join(rows))
    names = {number: name for number, name in enumerate(dataset.class_names)}
    content = {"path": str(folder), "train": "images/train", "val": "images/val", "names": names}
    (folder / "data.yaml").write_text(_yaml(content))


def _yaml(content: dict[str, Any]) -> str:
    """Formats a dictionary of strings, and of one such dictionary, as YAML."""
    lines = []
    for key, value in content.items():
        if isinstance(value, dict):
            lines += [
                f"{key}:",
                *(f"  {number}: {json.dumps(name)}" for number, name in value.items()),
            ]
        else:
            lines.append(f"{key}: {json.dumps(value)}")
    return "\n".join(lines) + "\n"


def run(command: Sequence[str], variables: dict[str, str] | None = None) -> float:
    """Runs a program in the clone's folder; returns the seconds it took.

    Its output goes to standard error, so that standard output holds JSON lines only.

    Raises:
        RunFailed: it ended with an error.
    """
    _announce(command)
    start = time.perf_counter()
    environment = {**os.environ, **(variables or {})}
    code = subprocess.run(command, cwd=ROOT, env=environment, stdout=sys.stderr).returncode
    if code:
        raise RunFailed(f"`{shlex.join(command[:3])} …` ended with exit code {code}")
    return time.perf_counter() - start


def _announce(command: Sequence[str]) -> None:
    logger.info("%s", shlex.join(command))
