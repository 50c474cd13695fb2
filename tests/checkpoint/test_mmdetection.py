"""Weights of mmdetection's detectors: every key of theirs is one of ours, and computes the same.

Their networks are rebuilt in :mod:`tests.support.mmdetection`; no published file was at hand.
"""

import logging

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from core import models
from core.checkpoint import mmdetection as names
from core.checkpoint.mmdetection import from_mmdetection
from core.checkpoint.snapshot import load_weights
from core.config.errors import UserError
from core.config.loading import load_config
from core.data.color import MEAN, STD
from core.layers import first_convolution
from tests.support import mmdetection
from tests.support.model_builders import manifest, small_detector

# Hourglass-104 with a thirty-second of its channels: the keys are those of the published network.
CHANNELS, COUNTS = [8, 8, 12, 12, 12, 16], [2, 2, 2, 2, 2, 4]
CORNERS = {
    "stem_channels": [4, 8],
    "channels": CHANNELS,
    "blocks": COUNTS,
    "head_channels": 8,
    "pooling_channels": 4,
}
CENTERS = {"up_channels": [8, 6, 4], "head_channels": 4, "up_convolutions": True}
OUR_MAPS = {
    "CornerNet": {
        "tl_heat": "tl_heatmap",
        "br_heat": "br_heatmap",
        "tl_emb": "tl_embedding",
        "br_emb": "br_embedding",
        "tl_off": "tl_offset",
        "br_off": "br_offset",
    },
    "CenterNet-resnet18": {"heatmap_head": "heatmap", "wh_head": "size", "offset_head": "offset"},
}


def theirs_and_ours(name):
    """Both networks, small, with different weights."""
    torch.manual_seed(1)
    if name == "CornerNet":
        sizes = {"input_size": [127, 127], "output_sizes": [[32, 32]]}
        ours = small_detector(name, model=CORNERS, **sizes)
        return mmdetection.with_random_statistics(
            mmdetection.CornerNet(3, CHANNELS, COUNTS, 4)
        ), ours
    ours = small_detector(name, model=CENTERS)
    return mmdetection.with_random_statistics(mmdetection.CenterNet(3, [8, 6, 4], 4)), ours


def shapes(weights):
    return {key: list(value.shape) for key, value in weights.items()}


def test_the_published_networks_have_our_keys_and_shapes(monkeypatch):
    """Built without memory for their weights, so that the first convolution cannot be converted."""
    monkeypatch.setattr(names, "adapt_first_convolution_", lambda *_, **__: None)
    published = load_config(
        "CenterNet-resnet18",
        overrides=["model.up_convolutions=true", "model.up_channels=[256, 128, 64]"],
    )
    with torch.device("meta"):
        corners = mmdetection.CornerNet(80, [256, 256, 384, 384, 384, 512], COUNTS, 128)
        centers = mmdetection.CenterNet(80, [256, 128, 64], 64)
        ours = models.build(published, 80).network.state_dict()
    weights, note = from_mmdetection(corners.state_dict(), "a.pth")
    assert note == "mmdetection's CornerNet, renamed for CornerNet"
    assert shapes(weights) == {k.removeprefix("module."): v for k, v in manifest("CornerNet")}
    assert len(weights) == len(corners.state_dict())
    weights, note = from_mmdetection(centers.state_dict(), "a.pth")
    assert note.startswith("mmdetection's CenterNet on ResNet-18, renamed for CenterNet-resnet18 w")
    assert shapes(weights) == shapes(ours)
    assert len(weights) == len(centers.state_dict())


@pytest.mark.parametrize("name", OUR_MAPS)
def test_their_weights_compute_the_same_here(name, tmp_path, monkeypatch, caplog):
    theirs, detector = theirs_and_ours(name)
    path = tmp_path / "published.pth"
    meta = {"epoch": 210, "CLASSES": ("person", "bicycle"), "config": "model = dict()"}
    torch.save({"meta": meta, "state_dict": theirs.state_dict()}, path)
    # With equal means the padding has one colour, so that the outputs agree up to the edges.
    monkeypatch.setattr(first_convolution, "IMAGENET", (MEAN[::-1].tolist(), STD[::-1].tolist()))
    with caplog.at_level(logging.INFO):
        assert load_weights(detector.network, path, detector.class_head_keys) == []
    (line,) = caplog.messages
    assert line.startswith(f"{path}: the weights are its state_dict; mmdetection's {name[:9]}")
    bgr = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        maps = detector.network.eval()(bgr)[-1]
        expected = theirs(bgr.flip(1))
    assert set(expected) == set(OUR_MAPS[name])
    for their_name, own in OUR_MAPS[name].items():
        value = expected[their_name]
        assert value.std() > 1e-3
        torch.testing.assert_close(getattr(maps, own), value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OUR_MAPS)
def test_their_images_are_rgb_with_the_mean_of_imagenet(name):
    theirs, _ = theirs_and_ours(name)
    before = theirs.state_dict()
    weights, _ = from_mmdetection(before, "a.pth")
    stem = ("stem.0.conv", "stem.0.bn") if name == "CornerNet" else ("conv1", "bn1")
    own = ("hg.pre.0.conv", "hg.pre.0.bn")
    if name != "CornerNet":
        own = ("backbone.body.conv1", "backbone.body.bn1")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.float32)  # BGR
    ours = (pixels / 255 - MEAN) / STD
    rgb = (pixels[..., ::-1] - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]

    def first(image, weights, conv, bn):
        image = torch.from_numpy(image.astype(np.float32)).permute(0, 3, 1, 2)
        return (
            F.conv2d(image, weights[f"{conv}.weight"])
            - weights[f"{bn}.running_mean"][:, None, None]
        )

    expected = first(rgb, before, *(f"backbone.{part}" for part in stem))
    torch.testing.assert_close(first(ours, weights, *own), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("neck.deconv_layers.0.conv.conv_offset.weight", r"deformable convolutions \(neck"),
        ("deconv_layers.0.conv_offset_mask.weight", "deformable convolutions"),
        ("bbox_head.tl_feat_adaption.0.weight", r"variant of mmdetection's CornerNet.*tl_feat_ada"),
        ("backbone.layer5.0.conv1.weight", "variant of mmdetection's CornerNet"),
    ],
)
def test_a_variant_that_is_not_here_is_refused(extra, message):
    theirs, _ = theirs_and_ours("CornerNet")
    weights = {**theirs.state_dict(), extra: torch.zeros(1)}
    with pytest.raises(UserError, match=rf"^a\.pth is of a .*{message}"):
        from_mmdetection(weights, "a.pth")


def test_other_detectors_of_mmdetection_are_refused():
    weights = {"backbone.conv1.weight": torch.zeros(1), "bbox_head.atss_cls.bias": torch.zeros(1)}
    with pytest.raises(UserError, match="CornerNet on hourglasses and CenterNet on ResNet-18 load"):
        from_mmdetection(weights, "a.pth")
    part = {
        "neck.deconv_layers.0.bn.bias": torch.zeros(1),
        "bbox_head.wh_head.0.bias": torch.ones(1),
    }
    with pytest.raises(UserError, match="a part of mmdetection's CenterNet on ResNet-18 only"):
        from_mmdetection(part, "a.pth")


def test_weights_of_others_stay_as_they_are():
    weights = {"module": torch.zeros(1)}
    assert from_mmdetection(weights, "a.pth") == (weights, "")
