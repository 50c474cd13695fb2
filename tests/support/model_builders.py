"""Detectors of every model for tests: small ones, and published ones with the golden weights."""

import json
import re
import zlib
from pathlib import Path

import numpy as np
import torch

from core import models
from core.config.loading import Config, config_from_dict, load_config
from core.models.detector import Detector

GOLDEN = Path(__file__).parents[1] / "golden"

SMALL_CORNERS = {
    "stacks": 2,
    "stem_channels": [8, 16],
    "channels": [16, 16, 24],
    "blocks": [2, 1, 1],
    "head_channels": 12,
    "pooling_channels": 8,
}
SMALL_CENTERS = {key: value for key, value in SMALL_CORNERS.items() if "pooling" not in key}
SMALL_REGIONS = {
    "channels": [[8], [16], [16]],
    "shorter_side": 47,
    "longer_side": 63,
    "anchor_scales": [2, 4],
    "anchor_ratios": [1],
    "rpn_min_size": 1,
    "pooled_size": 3,
    "head_channels": 16,
}
SMALL_PYRAMID = {"head_channels": 12}
SMALL_CORNER_PYRAMID = {**SMALL_PYRAMID, "pooling_channels": 8}
# A new model is tested by an entry here.
SMALL = {
    "CornerNet": SMALL_CORNERS,
    "CornerNet_Squeeze": SMALL_CORNERS,
    "CornerNet_Saccade": SMALL_CORNERS,
    "CornerNet-centripetal": {**SMALL_CORNERS, "pairing": "centripetal"},
    "CornerNet_Saccade-centripetal": {**SMALL_CORNERS, "pairing": "centripetal"},
    "CentripetalNet": SMALL_CORNERS,
    "CenterNet": SMALL_CENTERS,
    "CenterNet-resnet18": {
        "backbone": "resnet18",
        "up_channels": [16, 12, 8],
        "head_channels": 8,
    },
    "FasterRCNN": SMALL_REGIONS,
    # on pyramids; their backbones are as large as ever
    "CornerNet-lite": {**SMALL_CORNER_PYRAMID, "backbone": "efficientnet_lite0"},
    "CornerNet-resnet18": {
        **SMALL_CORNER_PYRAMID,
        "backbone": "resnet18",
        "stride": 4,
        "pairing": "centripetal",
    },
    "CornerNet_Lite0": SMALL_CORNER_PYRAMID,
    "CenterNet-lite": {**SMALL_PYRAMID, "backbone": "efficientnet_lite0", "stride": 4},
    "FasterRCNN-lite": {
        **{key: value for key, value in SMALL_REGIONS.items() if key != "channels"},
        "backbone": "efficientnet_lite0",
        "stride": 8,
        "anchor_scales": [1, 2],
        "pyramid_channels": 16,
    },
    "FasterRCNN-resnet18": {
        **{key: value for key, value in SMALL_REGIONS.items() if key != "channels"},
        "backbone": "resnet18",
        "anchor_scales": [0.5, 1],
        "pyramid_channels": 16,
    },
}
PYRAMIDS = tuple(name for name in SMALL if name.endswith(("-lite", "_Lite0")))
PYRAMIDS += ("CornerNet-resnet18", "FasterRCNN-resnet18")
# Cells a side, for 255 pixels, of those that make maps.
GOLDEN_CELLS = {
    "CornerNet": 64,
    "CornerNet_Squeeze": 32,
    "CornerNet_Saccade": 64,
    "CenterNet": 64,
    "CornerNet_Lite0": 32,
}
SMALL_DB = {"input_size": [63, 47], "output_sizes": [[16, 12]], "top_k": 10, "num_dets": 20}
LARGER_DB = {**SMALL_DB, "input_size": [63, 95], "output_sizes": [[8, 12]]}
SMALL_SACCADE_DB = {
    **SMALL_DB,
    "init_sizes": [32, 47],
    "min_scale": 4,
    "att_ranges": [[16, 64], [0, 16]],
    "att_scales": [[1, 3]],
    "att_nms_ks": [3, 3],
}
SMALL_DBS = {
    "CornerNet_Saccade": SMALL_SACCADE_DB,
    "CornerNet-centripetal": {**SMALL_DB, "regression_window": 3},
    "CornerNet_Saccade-centripetal": {**SMALL_SACCADE_DB, "regression_window": 3},
    "CenterNet-resnet18": {"input_size": [63, 95], "output_sizes": [[16, 24]], "top_k": 10},
    "FasterRCNN": {},
    "CornerNet-lite": LARGER_DB,
    "CornerNet-resnet18": {**LARGER_DB, "output_sizes": [[16, 24]], "regression_window": 3},
    "CornerNet_Lite0": {**LARGER_DB, "regression_window": 3},
    "CenterNet-lite": {"input_size": [63, 95], "output_sizes": [[16, 24]], "top_k": 10},
    "FasterRCNN-lite": {},
    "FasterRCNN-resnet18": {},
}


def small_config(name: str, model: dict | None = None, **db) -> Config:
    """A config of a network of some ten thousand parameters, for images of 63 x 47 pixels.

    Backbones of pyramids and ResNet-18 are as large as ever, and take 63 x 95.
    """
    model = {**SMALL[name], **(model or {})}
    db = {**SMALL_DBS.get(name, SMALL_DB), **db}
    return config_from_dict({"db": db, "model": model}, name, f"{name}.json")


def small_detector(name: str, num_classes: int = 3, seed: int = 0, **settings) -> Detector:
    """See :func:`small_config`; the weights are drawn from ``seed``."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return models.build(small_config(name, **settings), num_classes)


def detector_that_finds(name: str, **settings) -> Detector:
    """A detector with fresh weights whose attention and sizes are large enough to detect."""
    if "Saccade" in name:
        settings = {"att_thresholds": [0.05], **settings}
    if name == "CentripetalNet" or (name in PYRAMIDS and name.startswith("Corner")):
        settings = {"top_k": 60, **settings}  # few pairs have one size
    detector = small_detector(name, seed=2, **settings)
    with torch.no_grad():
        for key, value in detector.network.named_parameters():
            if re.fullmatch(r"wh\..*1\.bias", key):
                value.fill_(3)
            elif re.fullmatch(r"(tl|br)_shifts\..*1\.bias", key):
                value.fill_(1.8 if name in PYRAMIDS else 1)
    return detector


def published_detector(name: str) -> Detector:
    """The published network, for images of 255 pixels, without memory for its weights."""
    cells = GOLDEN_CELLS.get(name)
    sizes = ["db.input_size=[255, 255]", f"db.output_sizes=[[{cells}, {cells}]]"] if cells else []
    config = load_config(name, overrides=["system.chunk_sizes=null", *sizes])
    with torch.device("meta"):
        return models.build(config, 80)


def manifest(name: str) -> list[list]:
    """``[key, shape]`` of every entry of the reference's snapshots."""
    return json.loads((GOLDEN / f"manifest_{name}.json").read_text())


def load_formula_weights_(detector: Detector, name: str) -> None:
    """Gives a network the weights that the golden data were computed with."""
    weights = {key: formula(key, tuple(shape)) for key, shape in manifest(name)}
    detector.network.load_state_dict(
        {key.removeprefix("module."): value for key, value in weights.items()}, assign=True
    )


def formula(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Weights that a key and a shape determine, whatever draws random numbers."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    kind = key.rsplit(".", 1)[1]
    if kind == "num_batches_tracked":
        return torch.zeros((), dtype=torch.int64)
    if kind == "running_mean":
        return torch.zeros(shape)
    if kind == "running_var" or (kind == "weight" and len(shape) == 1):
        return torch.ones(shape)
    scale = 0.05 if len(shape) == 1 else np.sqrt(2 / np.prod(shape[1:]))
    return torch.from_numpy((rng.standard_normal(shape) * scale).astype(np.float32))
