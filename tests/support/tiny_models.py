"""Configs of CenterNet, Faster R-CNN and a pyramid for :mod:`tiny_training`: runs in seconds."""

import json

from core.checkpoint.run_directory import RunDirectory
from core.training.log import read_log
from tests.support.tiny_training import DB, MODEL, argv, write_training

CENTERS = {key: value for key, value in DB.items() if key != "num_dets"}
LITE = "CornerNet_Lite0-tiny"
TINY = {
    LITE: {
        "db": {**DB, "input_size": [63, 63], "output_sizes": [[8, 8]], "regression_window": 3},
        "model": {"head_channels": 8, "pooling_channels": 4},
    },
    "CenterNet-tiny": {
        "db": {**CENTERS, "test_resolution": "fix"},
        "model": {key: value for key, value in MODEL.items() if key != "pooling_channels"},
    },
    "CenterNet-resnet18": {
        "db": {**CENTERS, "input_size": [64, 64]},
        "model": {"backbone": "resnet18", "up_channels": [16, 12, 8], "head_channels": 8},
    },
    "FasterRCNN-tiny": {
        "db": {},
        "model": {
            "channels": [[4], [8], [8], [8]],
            "batch_norm": True,
            "shorter_side": 64,
            "longer_side": 64,
            "anchor_scales": [2, 4],
            "anchor_ratios": [1],
            "rpn_samples": 8,  # few: another draw gives other losses
            "rpn_min_size": 2,
            "train_pre_nms": 60,
            "train_post_nms": 30,
            "pooled_size": 3,
            "head_channels": 16,
            "roi_samples": 8,
            "min_score": 0.01,
        },
    },
}


def write(root, name, model=None, **system):
    """Writes images and the config ``name``; ``model`` and ``system`` replace settings.

    The name may be longer than one in ``TINY``, as those of several runs of a config.
    """
    write_training(root, name, **system)
    file = root / "configs" / f"{name}.json"
    tiny = TINY[next(known for known in TINY if name.startswith(known))]
    content = {**json.loads(file.read_text()), **tiny}
    content["model"] = {**content["model"], **(model or {})}
    file.write_text(json.dumps(content))


def of(root, name, *more):
    """Words of a script's command line, for that config."""
    return argv(root, *more, name=name)


def losses(root, name):
    """(iteration, terms), and the same of the validations, from a run's log."""
    lines = read_log(root / "cache" / "nnet" / name / "log.jsonl")
    training = [(x["iteration"], x["terms"]) for x in lines if "loss" in x]
    return training, [
        (x["iteration"], x["validation"]["terms"]) for x in lines if "validation" in x
    ]


def snapshot(root, name, iteration=4):
    """Weights of the last step, or of another one."""
    return RunDirectory(root / "cache", name).snapshot(iteration)
