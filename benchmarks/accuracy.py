"""Compares accuracy after the same minutes of training on a dataset: ours and peers.

    python -m benchmarks.accuracy --data data/mine --minutes 20 [--ours-only] [--seeds 0 1 2]
                                  [--yolo PYTHON] [--out FILE]

``--data`` is a folder with ``annotations/instances_{train,val}.json`` and ``images/{train,val}/``.
The contestants train in turn, each on the same cores, for the same time:

- ``cornerkit``: the config that ``cornerkit new --minutes`` writes. Instead, ``--detectors`` has it
  write one for each of them, and ``--config`` trains configs as they are: their own number of
  steps decides on the time;
- ``yolo11n``: Ultralytics, from its environment's Python (see accuracy_yolo.py);
- ``fasterrcnn_resnet50_fpn``: torchvision (see accuracy_torchvision.py).

Peers start from scratch. So does ours with ``--detectors CornerNet``; where the extra "pretrained"
is installed, ``cornerkit new`` chooses CornerNet_Lite0, which starts from ImageNet weights. No
weights are chosen by the validation split. Preparation is not counted (files in a peer's own
layout, starting it, the choice of a config); training is, wholly, for ours with the start of its
processes. One scorer judges all. Prints a JSON line a run and a Markdown table at the end;
``--out`` appends the lines to a file.
"""

import argparse
import contextlib
import json
import logging
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy_contestants import Contestant, Ours, Peer, RunFailed, Task
from benchmarks.operators import table
from core import models
from core.cli import exit_codes
from core.config.errors import UserError
from core.data.coco import CocoDetection
from core.data.splits import missing_images
from core.evaluation.coco import score_results
from core.models.device import choose_device

logger = logging.getLogger(__name__)

YOLO_IMPORT = "import ultralytics"


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit code: 1 if a run failed."""
    options = _parser().parse_args(argv)
    if not 0 < options.minutes < float("inf"):
        raise UserError(f"--minutes {options.minutes:g} must be above 0")
    datasets = {split: open_split(options.data, split) for split in ("train", "val")}
    require_same_classes(datasets)
    device = choose_device(options.device)
    if options.out:
        with _opened(options.out):
            pass  # before hours of training it is known whether it can be written
    lines: list[dict[str, Any]] = []
    failed = False
    with _cores(options.threads) as threads, _folder(options.work) as work:
        task = Task(options.data, datasets, options.minutes, device, threads, work)
        contestants = choose_contestants(options, task)
        for seed in options.seeds:
            for contestant in contestants:
                logger.info("== %s, seed %d", contestant.name, seed)
                try:
                    line = compete(contestant, seed, task)
                except RunFailed as error:
                    logger.error("error: %s, seed %d: %s", contestant.name, seed, error)
                    failed = True
                    continue
                lines.append(line)
                print(json.dumps(line), flush=True)
                if options.out:
                    with _opened(options.out) as file:
                        file.write(json.dumps(line) + "\n")
    if lines:
        print(f"\n{summary(lines)}")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the dataset")
    parser.add_argument("--minutes", type=float, required=True, help="of training, a run")
    parser.add_argument("--ours-only", action="store_true", help="leave the peers out")
    ours = parser.add_mutually_exclusive_group()
    ours.add_argument(
        "--config", action="append", default=[], metavar="FILE", help="may be repeated"
    )
    ours.add_argument("--detectors", nargs="+", choices=models.MODELS, help="all ours to compare")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", help="cuda, cpu …; a GPU if there is one by default")
    parser.add_argument("--threads", type=int, help="cores for each contestant; all by default")
    parser.add_argument("--yolo", metavar="PYTHON", help="a Python that has Ultralytics")
    parser.add_argument("--out", type=Path, metavar="FILE", help="append the JSON lines to it")
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="keep what the runs write there, such as weights"
    )
    return parser


def open_split(data: Path, split: str) -> CocoDetection:
    """Opens a split of the dataset.

    Raises:
        UserError: a file is missing, or is not in COCO's format.
    """
    annotation_file = data / "annotations" / f"instances_{split}.json"
    image_dir = data / "images" / split
    for path in (annotation_file, image_dir):
        if not path.exists():
            raise UserError(
                f"there is no {path}; --data names a folder with "
                "annotations/instances_{train,val}.json and images/{train,val}/"
            )
    dataset = CocoDetection(annotation_file, image_dir, use_crowd=False)  # as peers' own readers do
    missing = missing_images(dataset)
    if missing:
        raise UserError(
            f"{image_dir} lacks {len(missing)} images of its file, such as {missing[0]}"
        )
    if not dataset.box_counts().any():
        raise UserError(f"{annotation_file} has no boxes to train on or to compare with")
    return dataset


def require_same_classes(datasets: dict[str, CocoDetection]) -> None:
    """Refuses a validation split with other categories than those that are trained.

    Raises:
        UserError: ids or names differ.
    """
    train, val = datasets["train"], datasets["val"]
    if train.class_names != val.class_names or (train.category_ids != val.category_ids).any():
        raise UserError(
            f"{val.annotation_file} has other categories than {train.annotation_file}; "
            "give both the same list"
        )


def choose_contestants(options: argparse.Namespace, task: Task) -> list[Contestant]:
    """Makes the contestants that the arguments ask for; one line says if YOLO is left out."""
    contestants: list[Contestant] = []
    if options.config:
        contestants += [Ours(config) for config in options.config]
        names = [contestant.name for contestant in contestants]
        if len(set(names)) < len(names):
            raise UserError(f"two of --config have one name: {', '.join(names)}; rename a file")
    else:
        contestants += [Ours(detector=name) for name in options.detectors or [None]]
    if options.ours_only:
        return contestants
    python = options.yolo or sys.executable
    yolo = Peer("yolo11n", python, [str(Path(__file__).with_name("accuracy_yolo.py"))], True)
    problem = yolo.problem(YOLO_IMPORT, task.work)
    if problem is None:
        contestants.append(yolo)
    elif options.yolo:
        raise UserError(f"--yolo {python}: {problem}; `pip install ultralytics` there")
    else:
        logger.info(
            "yolo11n is left out: %s in %s; `pip install ultralytics` into an environment, and "
            "name its Python by --yolo",
            problem,
            python,
        )
    torchvision = ["-m", "benchmarks.accuracy_torchvision"]
    contestants.append(Peer("fasterrcnn_resnet50_fpn", sys.executable, torchvision))
    return contestants


def compete(contestant: Contestant, seed: int, task: Task) -> dict[str, Any]:
    """Trains a contestant and scores it on the validation split: the JSON line of the run.

    Raises:
        RunFailed: it ended with an error.
    """
    folder = task.work / contestant.name / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    trained = contestant.run(seed, folder, task)
    scores = score_results(trained.results, task.datasets["val"])
    cuda = task.device.type == "cuda"
    return {
        "contestant": contestant.name,
        "seed": seed,
        "minutes": task.minutes,
        "seconds": round(trained.seconds, 1),
        **trained.work,
        "parameters": trained.parameters,
        "AP": scores.metrics["AP"],
        "AP50": scores.metrics["AP50"],
        "AP_by_class": scores.ap_by_class,
        "data": str(task.data),
        "images": {split: len(dataset) for split, dataset in task.datasets.items()},
        "machine": {
            "processor": processor(),
            "cores": task.threads,
            "device": torch.cuda.get_device_name(task.device) if cuda else str(task.device),
            "torch": torch.__version__,
        },
        "versions": {"python": platform.python_version(), **trained.versions},
    }


def summary(lines: list[dict[str, Any]]) -> str:
    """Formats a Markdown table of the contestants: means over the seeds, and each seed's AP."""
    rows: dict[str, list[str]] = {}
    for name in dict.fromkeys(line["contestant"] for line in lines):
        own = [line for line in lines if line["contestant"] == name]
        rows[name] = [
            _mean(own, "AP"),
            _mean(own, "AP50"),
            ", ".join(f"{line['seed']}: {line['AP']:.3f}" for line in own),
            f"{sum(line['seconds'] for line in own) / len(own) / 60:.1f}",
            f"{own[0]['parameters'] / 1e6:.1f} M",
        ]
    return table(["AP", "AP50", "AP by seed", "minutes trained", "parameters"], rows)


def _mean(lines: list[dict[str, Any]], metric: str) -> str:
    return f"{sum(line[metric] for line in lines) / len(lines):.3f}"


def processor() -> str:
    """Returns the name of the processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@contextlib.contextmanager
def _cores(threads: int | None) -> Iterator[int]:
    """Keeps this process and those that it starts on some cores; yields how many.

    Raises:
        UserError: there are not as many.
    """
    bound = hasattr(os, "sched_setaffinity")
    own = os.sched_getaffinity(0) if bound else range(os.cpu_count() or 1)
    count = len(own) if threads is None else threads
    if not 1 <= count <= len(own):
        raise UserError(f"--threads {threads}: there are 1 to {len(own)} cores for this process")
    if not bound:  # macOS, Windows: only the threads of PyTorch are limited
        os.environ["OMP_NUM_THREADS"] = str(count)
        yield count
        return
    os.sched_setaffinity(0, sorted(own)[:count])
    try:
        yield count
    finally:
        os.sched_setaffinity(0, own)


@contextlib.contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    """Yields the folder that is kept, or a temporary one.

    Raises:
        UserError: it holds something, which may be of other runs.
    """
    if kept is not None:
        if kept.exists() and (not kept.is_dir() or any(kept.iterdir())):
            raise UserError(f"--work {kept} is not an empty folder; name a new one")
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="accuracy-") as folder:
        yield Path(folder)


def _opened(path: Path) -> Any:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {path} cannot be written: {error.strerror}") from None


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
