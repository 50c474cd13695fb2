"""Inputs of the golden data of CenterNet."""

import json

import numpy as np
import torch

from tests.support.model_builders import GOLDEN

DATA = np.load(GOLDEN / "centernet.npz")
WALKTHROUGH = json.loads((GOLDEN / "centernet_walkthrough.json").read_text())


def meta(name: str):
    """The JSON of an entry."""
    return json.loads(str(DATA[name]))


def tensor(name: str) -> torch.Tensor:
    """An entry as a tensor."""
    return torch.from_numpy(DATA[name])


def sparse_heatmap(prefix: str, shape) -> torch.Tensor:
    """float32 map of ``shape`` from the entries ``<prefix>_idx`` and ``<prefix>_val``."""
    heatmap = np.zeros(shape, np.float32)
    heatmap.flat[DATA[f"{prefix}_idx"]] = DATA[f"{prefix}_val"]
    return torch.from_numpy(heatmap)


def blocky_noise(seed: int, height: int, width: int) -> np.ndarray:
    """The image that a seed and a size stand for."""
    cells = (-(-height // 8), -(-width // 8), 3)
    low = np.random.default_rng(seed).integers(0, 256, cells, dtype=np.int64)
    return low.repeat(8, 0).repeat(8, 1)[:height, :width].astype(np.uint8)
