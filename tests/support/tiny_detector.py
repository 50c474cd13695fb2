"""A CornerNet of a few thousand parameters with fresh weights, as config and snapshot files."""

import json
from pathlib import Path

import torch

from core import models
from core.checkpoint import snapshot as checkpoint
from core.checkpoint.run_directory import RunDirectory
from core.config.loading import load_config

MODEL = {
    "stacks": 1,
    "stem_channels": [4, 4],
    "channels": [4, 4],
    "blocks": [1, 1],
    "head_channels": 4,
    "pooling_channels": 4,
}


def write_config(root: Path, name: str = "CornerNet-tiny", **db) -> Path:
    """Writes ``<root>/configs/<name>.json`` for data, cache and results under ``root``."""
    system = {
        "data_dir": str(root / "data"),
        "cache_dir": str(root / "cache"),
        "result_dir": str(root / "results"),
        "train_split": "train",
        "val_split": "val",
        "test_split": "test",
        "workers": 0,
    }
    sizes = {"input_size": [127, 127], "output_sizes": [[32, 32]], "top_k": 20, "num_dets": 50}
    file = root / "configs" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"system": system, "db": {**sizes, **db}, "model": MODEL}))
    return file


def write_snapshot(
    root: Path,
    iteration: int,
    class_names: tuple[str, ...],
    name: str = "CornerNet-tiny",
    seed: int | None = None,
) -> Path:
    """Writes a snapshot of that config, with weights that find objects in noise.

    The weights are drawn from ``seed``, or else from the iteration.
    """
    config = load_config(name, config_dir=root / "configs")
    torch.manual_seed(iteration if seed is None else seed)
    network = models.build(config, len(class_names)).network
    for key, value in network.state_dict().items():
        if "_heats.0.1.weight" in key:
            value *= 100  # heatmaps with peaks
        elif "_tags.0.1." in key:
            value.zero_()  # any two corners make a pair
    path = RunDirectory(root / "cache", name).snapshot(iteration)
    meta = checkpoint.Meta(name, iteration, class_names, config.as_dict(), checkpoint.versions())
    checkpoint.save_snapshot(path, network, {}, meta)
    return path
