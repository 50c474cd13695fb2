"""Compares the detectors: size and work as published, and accuracy on the generated shapes.

    python -m benchmarks.compare [--models CornerNet_Squeeze CenterNet] [--trained]

Parameters and GFLOP are those of ``configs/<model>.json`` with 80 classes, for one image at its
published input size; a multiplication and an addition count as two. Time and AP are those of
``configs/<model>-shapes.json``: images are made, and the detector trained and evaluated, by the
commands of the README, one after the other; images a second are those of ``evaluate.py``.
``--trained`` evaluates the newest snapshots instead of training. Prints a Markdown table.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.operators import table
from core import models
from core.checkpoint.run_directory import RunDirectory
from core.cli import exit_codes
from core.config.errors import UserError
from core.config.loading import Config, load_config
from core.layers.heads import Read

COCO_CLASSES = 80
# Pixels of one image where it is not db.input_size (height, width), as the papers test.
TEST_SIZES = {"FasterRCNN": (600, 1000)}
SHAPES = {  # arguments of core.data.shapes, by dataset folder
    "shapes": [],
    "small_shapes": ["--train", "2000", "--val", "200", "--size", "383", "--mostly-small"],
}
PUBLISHED = {  # AP on COCO, and the paper that gives it
    "CornerNet": "40.6 test-dev, arXiv:1808.01244",
    "CornerNet_Squeeze": "34.4 val, arXiv:1904.08900",
    "CornerNet_Saccade": "43.2 test-dev, arXiv:1904.08900",
    "CenterNet": "40.3 val, arXiv:1904.07850",
    "CentripetalNet": "48.0 test-dev with several scales, arXiv:2003.09119",
    "FasterRCNN": "21.9 test-dev, arXiv:1506.01497",
}


def size_and_work(model: str) -> tuple[int, float]:
    """Counts the parameters of the published network, and GFLOP of one image in evaluation."""
    # Shapes are enough to count by, but Faster R-CNN's depend on what it finds.
    device = torch.device("cpu" if model == "FasterRCNN" else "meta")
    config = load_config(model)
    with device:
        detector = models.build(config, COCO_CLASSES)
        network = detector.network.eval()
        images = torch.zeros(1, 3, *TEST_SIZES.get(model, config.db.input_size))
        # Which cells are read does not matter to the count.
        cells = torch.zeros(1, config.db.top_k).long()
        search = {key: lambda *maps: Read((cells,) * len(maps)) for key in detector.decode_inputs}
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(images, **search)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return parameters, counter.get_total_flops() / 1e9


def run(*arguments: str) -> float:
    """Runs Python with these arguments as a user would; returns the seconds it took."""
    print(f"\n== python {' '.join(arguments)}", file=sys.stderr, flush=True)
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=sys.stderr)
    return time.perf_counter() - start


def newest_iteration(config: Config) -> int:
    """Finds the iteration of the newest snapshot of a config.

    Raises:
        UserError: there is none.
    """
    cache_dir = config.system.cache_dir
    newest = RunDirectory(cache_dir, config.name).newest()
    if newest is None:
        raise UserError(f"{config.name} has no snapshot in {cache_dir}; leave --trained out")
    return newest[1]


def learn(config: Config, trained: bool) -> list[str]:
    """Trains and evaluates; returns minutes of training, AP, AP50, images a second.

    Args:
        config: config of the training.
        trained: evaluate the newest snapshot, without training.
    """
    system = config.system
    folder = Path(system.data_dir) / system.dataset_dir
    if not folder.exists():
        run("-m", "core.data.shapes", str(folder), *SHAPES[system.dataset_dir])
    minutes = "" if trained else f"{run('train.py', config.name) / 60:.1f}"
    iteration = newest_iteration(config) if trained else system.max_iter
    run("evaluate.py", config.name, "--testiter", str(iteration), "--split", "validation")
    results = Path(system.result_dir) / config.name / str(iteration) / "validation"
    metrics = json.loads((results / "metrics.json").read_text())
    rate = metrics["images_per_second"]
    return [minutes, f"{metrics['AP']:.3f}", f"{metrics['AP50']:.3f}", f"{rate:.0f}"]


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=models.MODELS, default=list(PUBLISHED))
    parser.add_argument("--trained", action="store_true", help="evaluate the newest snapshots")
    options = parser.parse_args(argv)
    rows = {}
    for model in options.models:
        parameters, work = size_and_work(model)
        size = "x".join(map(str, TEST_SIZES.get(model, load_config(model).db.input_size)))
        learned = learn(load_config(f"{model}-shapes"), options.trained)
        rows[f"[{model}](configs/{model}.json)"] = [
            f"{parameters / 1e6:.1f} M",
            f"{work:.0f} at {size}",
            PUBLISHED.get(model, "-"),
            *learned,
        ]
    published = ["parameters", "GFLOP", "published AP"]
    head = [*published, "minutes to train", "AP", "AP50", "images a second"]
    print(table(head, rows))
    return 0


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
