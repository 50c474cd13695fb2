"""Small detectors with fresh weights that find objects, for comparisons with their exports."""

import math
from pathlib import Path

import torch
from torch import nn

from core.layers.heads import Head
from core.models.loading import LoadedDetector
from tests.support.model_builders import SMALL, small_config, small_detector
from tests.support.tiny_detector import MODEL

_CENTERS = {key: value for key, value in MODEL.items() if key != "pooling_channels"}
# The ``model`` sections of networks that are quickly exported.
TINY = {
    "CornerNet": MODEL,
    "CentripetalNet": MODEL,
    "CornerNet_Saccade": {**MODEL, "channels": [4, 4, 4], "blocks": [1, 1, 1]},
    "CenterNet": _CENTERS,
}
MODELS = [name for name in SMALL if "FasterRCNN" not in name]
CLASS_NAMES = ("red", "white", "plate <let>")


def finding_detector(name: str, **settings) -> LoadedDetector:
    """A detector as :func:`small_detector` makes it, that finds objects of about 7 cells in noise.

    Its heatmaps have clear peaks, of the same classes for both corners; any two corners have equal
    embeddings, and all corners and centres predict boxes of about one size.
    """
    settings = {"top_k": 40, "num_dets": 200, "max_per_image": 1000, **settings}
    detector = small_detector(name, **settings)
    weights = detector.network.state_dict()
    for key, value in weights.items():
        if key.startswith("br_"):
            value.copy_(weights[key.replace("br_", "tl_", 1)])
        elif "_tags." in key:
            value.zero_()
        elif key.endswith("1.bias") and "_shifts." in key and "guide" not in key:
            value.fill_(math.log(3.5))
        elif key.endswith("1.bias") and key.startswith("wh."):
            value.fill_(7)
    _spread_heatmaps_(detector.network)
    config = small_config(name, **settings)
    snapshot = Path(f"{name}.pkl")
    return LoadedDetector(detector, config, CLASS_NAMES, True, snapshot, 1, torch.device("cpu"))


def _spread_heatmaps_(network: nn.Module) -> None:
    """Scales the last layer of the heatmaps' heads: a mean of 0 and a deviation of 1.5 on noise."""
    noise = torch.randn(1, 3, 127, 127, generator=torch.Generator().manual_seed(0))
    heads = [
        module
        for name, module in network.named_modules()
        if isinstance(module, Head) and ("_heats." in name or name.startswith("hm."))
    ]
    with torch.no_grad():
        for head in heads:
            head[1].bias.zero_()
            head.register_forward_hook(_scale_last_layer_)
        network.eval()(noise)
        for head in heads:
            head._forward_hooks.clear()


def _scale_last_layer_(head: Head, _inputs: object, logits: torch.Tensor) -> None:
    head[1].weight *= 1.5 / logits.std()
    head[1].bias -= 1.5 * (logits / logits.std()).mean((0, 2, 3))
