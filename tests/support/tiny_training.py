"""A whole training run in seconds: a few generated images, and a CornerNet-Squeeze for them."""

import json
from pathlib import Path

from core.data.shapes import write_shapes

NAME = "CornerNet_Squeeze-tiny"
SYSTEM = {
    "dataset_dir": "shapes",
    "train_split": "train",
    "val_split": "val",
    "test_split": "val",
    "batch_size": 3,
    "chunk_sizes": [1, 2],
    "max_iter": 4,
    "stepsize": 3,
    "learning_rate": 0.001,
    "snapshot": 2,
    "val_iter": 2,
    "display": 1,
    "workers": 0,
}
DB = {
    "input_size": [63, 63],
    "output_sizes": [[16, 16]],
    "border": 16,
    "top_k": 10,
    "num_dets": 20,
    "test_flipped": False,
}
MODEL = {
    "stacks": 2,
    "stem_channels": [4, 8],
    "channels": [8, 8],
    "blocks": [1, 1],
    "head_channels": 8,
    "pooling_channels": 4,
}


def write_training(root: Path, name: str = NAME, **system) -> None:
    """Writes ``configs/<name>.json`` and the dataset that it names under ``root``."""
    write_shapes(root / "data" / "shapes", {"train": 7, "val": 3}, size=64, seed=1)
    write_config(root, name, **system)


def write_config(root: Path, name: str = NAME, **system) -> None:
    """Writes ``<root>/configs/<name>.json``; ``system`` replaces settings."""
    folders = {f"{key}_dir": str(root / key) for key in ("data", "cache")}
    content = {
        "system": {**SYSTEM, **folders, "result_dir": str(root / "results"), **system},
        "db": DB,
        "model": MODEL,
    }
    (root / "configs").mkdir(exist_ok=True)
    (root / "configs" / f"{name}.json").write_text(json.dumps(content))


def keep_classes(root: Path, count: int) -> None:
    """Leaves the first ``count`` classes of the dataset that :func:`write_training` wrote."""
    for file in (root / "data" / "shapes" / "annotations").iterdir():
        content = json.loads(file.read_text())
        content["categories"] = content["categories"][:count]
        kept = [row for row in content["annotations"] if row["category_id"] <= count]
        file.write_text(json.dumps({**content, "annotations": kept}))


def argv(root: Path, *more: str, name: str = NAME) -> list[str]:
    """Arguments of a script, for a config that :func:`write_training` wrote."""
    return [str(root / "configs" / f"{name}.json"), "--device", "cpu", *more]
