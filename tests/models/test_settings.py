"""Settings of CenterNet and Faster R-CNN: each reaches its place, with the published values."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from core import models
from core.config.errors import UserError
from core.config.loading import config_from_dict, load_config
from core.data.samples import sample_unchanged
from core.inference.centers import Geometry
from core.models.faster_rcnn import Architecture
from tests.support.model_builders import GOLDEN, small_config, small_detector

# Every number is another one, so that none can stand in another's place.
REGIONS = {
    "rpn_positive_iou": 0.71,
    "rpn_negative_iou": 0.31,
    "rpn_samples": 250,
    "rpn_positive_fraction": 0.51,
    "rpn_nms_threshold": 0.72,
    "rpn_min_size": 15.0,
    "train_pre_nms": 1201,
    "train_post_nms": 201,
    "test_pre_nms": 601,
    "test_post_nms": 31,
    "pooled_size": 6,
    "sampling_ratio": 3,
    "head_channels": 40,
    "roi_iou": 0.52,
    "roi_samples": 120,
    "roi_positive_fraction": 0.25,
    "min_score": 0.06,
}


def regions_as_built(network):
    """The numbers of a Faster R-CNN, where torchvision's parts hold them."""
    rpn, heads = network.rpn, network.roi_heads
    assert heads.proposal_matcher.high_threshold == heads.proposal_matcher.low_threshold
    before, after = rpn._pre_nms_top_n, rpn._post_nms_top_n
    (pooled_size,) = set(heads.box_roi_pool.output_size)
    return {
        "rpn_positive_iou": rpn.proposal_matcher.high_threshold,
        "rpn_negative_iou": rpn.proposal_matcher.low_threshold,
        "rpn_samples": rpn.fg_bg_sampler.batch_size_per_image,
        "rpn_positive_fraction": rpn.fg_bg_sampler.positive_fraction,
        "rpn_nms_threshold": rpn.nms_thresh,
        "rpn_min_size": rpn.min_size,
        "train_pre_nms": before["training"],
        "train_post_nms": after["training"],
        "test_pre_nms": before["testing"],
        "test_post_nms": after["testing"],
        "pooled_size": pooled_size,
        "sampling_ratio": heads.box_roi_pool.sampling_ratio,
        "head_channels": heads.box_head.fc7.out_features,
        "roi_iou": heads.proposal_matcher.high_threshold,
        "roi_samples": heads.fg_bg_sampler.batch_size_per_image,
        "roi_positive_fraction": heads.fg_bg_sampler.positive_fraction,
        "min_score": heads.score_thresh,
    }


def test_every_number_of_faster_rcnn_reaches_its_place():
    detector = small_detector("FasterRCNN", model=REGIONS, nms_threshold=0.45, max_per_image=77)
    assert regions_as_built(detector.network) == REGIONS
    heads = detector.network.roi_heads
    assert (heads.nms_thresh, heads.detections_per_img) == (0.45, 77)
    assert heads.proposal_matcher.allow_low_quality_matches is False
    assert detector.network.rpn.proposal_matcher.allow_low_quality_matches is True


@pytest.mark.parametrize(
    "config", [load_config("FasterRCNN"), config_from_dict({}, "FasterRCNN", "")]
)
def test_the_numbers_of_faster_rcnn_are_those_of_the_worked_example(config):
    """In the published config, and by default."""
    example = json.loads((GOLDEN / "faster_rcnn_walkthrough.json").read_text())

    def values(section, *keys):
        return [example[section][key]["value"] for key in keys]

    with torch.device("meta"):
        built = regions_as_built(models.build(config, 20).network)
    labels = ("rpn_positive_iou", "rpn_negative_iou", "rpn_samples", "rpn_positive_fraction")
    expected = dict(
        zip(labels, values("labels", "pos_iou", "neg_iou", "n_sample", "pos_ratio"), strict=True)
    )
    counts = ("train_pre_nms", "train_post_nms", "test_pre_nms", "test_post_nms")
    expected |= dict(zip(counts, values("proposals", *counts), strict=True))
    expected["rpn_nms_threshold"], expected["rpn_min_size"] = values(
        "proposals", "nms_iou", "min_size"
    )
    expected["roi_samples"], expected["roi_positive_fraction"], expected["roi_iou"] = values(
        "roi_targets", "n_samples", "pos_ratio", "pos_iou"
    )
    (expected["pooled_size"],) = values("roi_head", "pool")
    expected["head_channels"] = example["roi_head"]["fc"]["value"][0]
    # The rest is torchvision's: the example ends before detection, and pools by maxima.
    expected |= {"sampling_ratio": 2, "min_score": 0.05}
    assert built == expected
    assert (Architecture().anchor_scales, Architecture().anchor_ratios) == (
        (8, 16, 32),
        (0.5, 1, 2),
    )


def test_the_losses_of_regions_are_a_computed_number():
    """Regions that fit at 0.8 and not at all, and the object itself; the heads say constants."""
    heads = small_detector("FasterRCNN").network.roi_heads
    for parameter in heads.parameters():
        nn.init.zeros_(parameter)
    logits = torch.tensor([0.5, -1.0, 2.0, 0.0])
    with torch.no_grad():
        heads.box_predictor.cls_score.bias.copy_(logits)
    regions = torch.tensor([[12, 10, 32, 30.0], [40, 40, 46, 46]])
    target = {"boxes": torch.tensor([[10, 10, 32, 30.0]]), "labels": torch.tensor([2])}
    _, losses = heads.train()({"0": torch.zeros(1, 16, 15, 12)}, [regions], [(60, 48)], [target])
    log_sum = np.log(np.exp(logits.numpy()).sum())
    classes = (2 * (log_sum - 2.0) + (log_sum - 0.5)) / 3
    assert losses["loss_classifier"].item() == pytest.approx(classes, rel=1e-5)
    # x: the object's middle is 1 of 20 pixels to the left; times 10. Width: ln(22 / 20) times 5.
    codes, beta = np.array([10 * 1 / 20, 5 * np.log(22 / 20)]), 1 / 9
    expected = (codes - beta / 2).sum() / 3
    assert losses["loss_box_reg"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"channels": [[8], []]}, "model.channels must hold numbers above 0"),
        ({"channels": []}, "model.channels must hold"),
        ({"anchor_scales": []}, "model.anchor_scales must hold"),
        ({"roi_samples": 0}, "model.roi_samples must hold"),
        ({"roi_iou": 1.5}, "model.roi_iou 1.5 must be from 0 to 1"),
        ({"rpn_negative_iou": 0.8}, "must not be above"),
        ({"shorter_side": 2000}, "model.shorter_side 2000 must be from"),
        ({"shorter_side": 3}, "a cell of the map"),
        ({"anchor_scale": [1]}, "did you mean 'anchor_scales'"),
        ({"channels": [8, 8]}, "must be a list"),
    ],
)
def test_numbers_of_faster_rcnn_that_are_refused(model, message):
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        models.build(small_config("FasterRCNN", model), 3)


CENTERS = {
    "test_scales": [0.5, 1.5],
    "top_k": 33,
    "nms_kernel": 5,
    "nms_algorithm": "linear_soft_nms",
    "nms_threshold": 0.45,
    "max_per_image": 77,
    "rand_scales": [0.7, 1.1],
    "border": 31,
    "min_visible": 0.25,
}
SWITCHES = ("test_flipped", "test_nms", "reference_scoring", "rand_crop", "rand_color", "lighting")


@pytest.mark.parametrize("switched", [None, *SWITCHES])
def test_every_setting_of_centernet_reaches_its_place(switched):
    """One switch at a time is on, so that none can be confused with another."""
    db = small_config(
        "CenterNet", test_resolution="fix", **CENTERS, **{key: key == switched for key in SWITCHES}
    ).db
    detector = small_detector(
        "CenterNet", test_resolution="fix", **CENTERS, **{key: key == switched for key in SWITCHES}
    )
    decoding = {"mirrored": switched == "test_flipped", "top_k": 33, "kernel": 5}
    assert detector.decode.keywords == detector.decode_inputs["search"].keywords == decoding
    assert vars(detector.infer.keywords["settings"]) == {
        "geometry": Geometry("fix", db.input_size, 16, 4),
        "test_scales": (0.5, 1.5),
        "nms_algorithm": "linear_soft_nms",
        "nms_threshold": 0.45,
        "max_per_image": 77,
        "test_flipped": switched == "test_flipped",
        "nms": switched == "test_nms",
        "reference_scoring": switched == "reference_scoring",
    }
    assert vars(detector.sample.keywords["settings"]) == {
        "input_size": (63, 47),
        "scales": (0.7, 1.1),
        "border": 31,
        "crop": switched == "rand_crop",
        "color": switched == "rand_color",
        "lighting": switched == "lighting",
        "min_visible": 0.25,
    }


def test_targets_of_centernet_as_the_config_says():
    settings = {"gaussian_bump": False, "gaussian_iou": 0.6, "gaussian_radius": 4}
    detector = small_detector("CenterNet", **settings, data_aug=False)
    assert detector.targets.keywords == {"num_classes": 3, "output_size": (16, 12), **settings}
    assert detector.sample.func is sample_unchanged


@pytest.mark.parametrize(
    ("name", "resolution"), [("CenterNet", "keep"), ("CenterNet-resnet18", "fix")]
)
def test_centernet_as_published(name, resolution):
    with torch.device("meta"):
        detector = models.build(load_config(name), 80)
    stride = 128 if name == "CenterNet" else 32
    assert detector.decode.keywords == {"mirrored": True, "top_k": 100, "kernel": 3}
    assert vars(detector.infer.keywords["settings"]) == {
        "geometry": Geometry(resolution, (512, 512), stride, 4),
        "test_scales": (1.0,),
        "test_flipped": True,
        "nms": False,
        "nms_algorithm": "exp_soft_nms",
        "nms_threshold": 0.5,
        "max_per_image": 100,
        "reference_scoring": False,
    }
    sample = vars(detector.sample.keywords["settings"])
    assert sample["scales"] == pytest.approx(np.arange(0.6, 1.4, 0.1))
    assert (sample["crop"], sample["color"], sample["lighting"]) == (True, True, True)
    assert (sample["border"], sample["input_size"]) == (128, (512, 512))


def test_schedules_as_published():
    """CenterNet: 50 epochs of 118,287 images, the rate down by ten after 40."""
    system = load_config("CenterNet").system
    assert (system.batch_size, system.chunk_sizes) == (24, (4, 5, 5, 5, 5))
    assert (system.max_iter, system.stepsize) == (246_400, 197_120)
    assert (system.learning_rate, system.decay_rate, system.opt_algo) == (2.5e-4, 10, "adam")
    system = load_config("FasterRCNN").system
    assert (system.batch_size, system.learning_rate, system.opt_algo) == (8, 0.003, "sgd")
    assert (system.max_iter, system.stepsize) == (320_000, 240_000)
