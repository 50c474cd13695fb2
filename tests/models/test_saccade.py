"""The complete CornerNet-Saccade: the reference's numbers, configs, sizes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from core import models
from core.config.errors import UserError
from core.config.loading import load_config
from core.models import cornernet_saccade
from core.targets.saccade import SaccadeTargets
from tests.models.test_golden import Golden, check_decoding, set_momentum_
from tests.support.model_builders import (
    load_formula_weights_,
    published_detector,
    small_config,
    small_detector,
)

NAME = "CornerNet_Saccade"


class SaccadeGolden(Golden):
    """The entries of CornerNet-Saccade."""

    def targets(self):
        corners = super().targets()
        valid = {}
        for corner in ("tl", "br"):
            mask = torch.ones_like(corners.tl_heatmap, dtype=torch.bool)
            mask.view(-1)[self[f"gt_{corner}_valid_zero_idx"]] = False
            valid[f"{corner}_valid"] = mask
        attention = [torch.from_numpy(self[f"gt_att_{level}"]).float() for level in range(3)]
        return SaccadeTargets(corners, **valid, attention=attention)

    def batch(self):
        batch = super().batch()
        sides = (batch.boxes[..., 2:].long() - batch.boxes[..., :2].long()).amax(2)
        return replace(batch, usable=sides >= 16)


@pytest.mark.slow
def test_forward_loss_gradients_and_decoding():
    golden, detector = SaccadeGolden(NAME), published_detector(NAME)
    load_formula_weights_(detector, NAME)
    network, images = detector.network, golden.images()
    set_momentum_(network, 1.0)
    outputs = network(images)
    assert len(outputs) == 3
    for stack, maps in enumerate(outputs):
        golden.compare(maps.corners, "train", f"_{stack}")
        for level, attention in enumerate(maps.attention):
            golden.compare_map(attention, f"train_att_{stack}_{level}")

    loss = sum(detector.losses(outputs, golden.targets()).values())
    assert loss.item() == pytest.approx(float(golden["loss"]), rel=1e-5)
    golden.check_gradients(network, loss)

    network.eval()
    with torch.no_grad():
        (maps,) = network(images)
    golden.compare(maps.corners, "eval")
    prediction = detector.decode([maps])
    for level, attention in enumerate(prediction.attention):
        golden.compare_map(attention, f"eval_attsig_{level}")
    check_decoding(golden, prediction.detections, maps.corners, no_border=True)


def test_attention_is_computed_only_where_it_is_asked_for():
    network = small_detector(NAME).network.eval()
    images = torch.randn(2, 3, 63, 47)
    with torch.no_grad():
        (asked,), (unasked,) = network(images), network(images, attention=False)
    assert len(asked.attention) == 2 and unasked.attention == []
    assert torch.equal(unasked.corners[0], asked.corners[0])


def test_targets_of_the_golden_boxes():
    golden, detector = SaccadeGolden(NAME), published_detector(NAME)
    targets, expected = detector.targets(golden.batch()), golden.targets()
    for corner in ("tl", "br"):
        heatmap = getattr(targets.corners, f"{corner}_heatmap")
        wanted = getattr(expected.corners, f"{corner}_heatmap")
        torch.testing.assert_close(heatmap, wanted, rtol=0, atol=1e-6)
        valid = getattr(targets, f"{corner}_valid")
        assert torch.equal(valid, getattr(expected, f"{corner}_valid"))
    assert targets.corners.mask.sum(1).tolist() == golden["gt_mask"].sum(1).tolist()
    for attention, wanted in zip(targets.attention, expected.attention, strict=True):
        assert torch.equal(attention, wanted)


def test_the_published_config():
    config = load_config(NAME)
    assert config.system.chunk_sizes == (12, 12, 12, 12)
    table = cornernet_saccade.Architecture()
    assert (table.stacks, table.stride, table.coarsest_stride) == (3, 4, 32)
    detector = published_detector(NAME)
    settings = detector.infer.keywords["settings"]
    assert (settings.strides, settings.zooms) == ((16, 8, 4), ((1, 2, 4),))
    assert (settings.thresholds, settings.init_sizes) == ((0.3,), (192, 255))
    assert (settings.max_crops, settings.detections_too) == (30, True)
    sample = vars(detector.sample.keywords["settings"])
    assert sample["scales"] == pytest.approx((0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1))
    assert sample["centered"] and sample["color"] and sample["min_side"] == 16
    golden = json.loads(str(SaccadeGolden(NAME)["decode_kw"]))
    assert detector.decode.keywords["corners"].keywords == {
        "top_k": golden.pop("K"),
        **golden,
    }


@pytest.mark.parametrize(
    ("side", "cells", "sizes"),
    [
        (255, 64, ((16, 16), (32, 32), (64, 64))),
        (127, 32, ((8, 8), (16, 16), (32, 32))),
        (383, 96, ((24, 24), (48, 48), (96, 96))),
        (511, 128, ((32, 32), (64, 64), (128, 128))),
    ],
)
def test_maps_of_other_sizes_of_views(side, cells, sizes):
    settings = {
        "model": {"channels": [16, 16, 24, 24], "blocks": [1, 1, 1, 1], "stacks": 1},
        "input_size": [side, side],
        "output_sizes": [[cells, cells]],
        "init_sizes": [side],
        "att_ranges": [[96, side + 1], [32, 96], [0, 32]],
        "att_scales": [[1, 2, 4]],
        "att_nms_ks": [3, 3, 3],
    }
    detector = small_detector(NAME, **settings)
    image = np.zeros((300, 400, 3), np.uint8)
    boxes = np.array([[0, 0, 399, 299], [380, 280, 399, 299]], np.float32)
    sample = detector.sample(image, boxes, np.array([0, 1]), np.random.default_rng(0))
    assert sample.image.shape == (3, side, side)
    assert detector.targets.keywords["sizes"] == sizes
    with torch.no_grad():
        (maps,) = detector.network.eval()(torch.zeros(1, 3, side, side))
    assert tuple(tuple(map_.shape[2:]) for map_ in maps.attention) == sizes
    given = {"att_sizes": [list(size) for size in sizes], "att_ratios": [16, 8, 4]}
    models.build(small_config(NAME, **settings, **given), 3)
    with pytest.raises(UserError, match=r"db.att_ratios says \[16, 8, 5\], and .* leave it out"):
        models.build(small_config(NAME, **settings, att_ratios=[16, 8, 5]), 3)


@pytest.mark.parametrize(
    ("db", "message"),
    [
        ({"att_ranges": [[9, 64], [8, 9], [0, 8]]}, "names 3 attention maps; .* maps for 1 to 2"),
        ({"att_ranges": []}, "names 0 attention maps"),
        ({"att_ranges": [[0, 16], [16, 64]]}, "must go from large objects to small ones"),
        ({"att_ranges": [[60, 64], [0, 60]]}, r"has \[60, 64\], .* no size of an object is left"),
        ({"att_ranges": [[16, 64], [1, 16]]}, "must reach from 0 to 46 pixels"),
        ({"att_ranges": [[16, 45], [0, 16]]}, "must reach from 0 to 46 pixels"),
        ({"att_ranges": [[16, 64], [0, 15]]}, "leave a gap"),
        ({"min_scale": 17}, r"has \[0, 16\], and with db.min_scale 17 .* no size"),
        ({"att_nms_ks": [3]}, "att_nms_ks must give one number for each of the 2 db.att_ranges"),
        ({"att_nms_ks": [3, 4]}, r"att_nms_ks \[3, 4\] must be odd"),
        ({"att_scales": [[1, 2, 4]]}, "att_scales must give one number for each of the 2"),
        ({"att_scales": [[1, 2], [1, 2]]}, "names 2 rounds and db.att_thresholds 1"),
        ({"att_scales": [[1, 0]]}, "att_scales must hold numbers above 0"),
        ({"att_thresholds": [1]}, "att_thresholds must be at least 0 and below 1"),
        ({"att_max_crops": -1}, "att_max_crops must be at least 0"),
        ({"init_sizes": [48]}, r"init_sizes \[48\] must be 1 to 47"),
        ({"init_sizes": []}, "init_sizes"),
        ({"att_sizes": [[8, 6], [16, 16]]}, r"att_sizes says .* makes \[\[8, 6\], \[16, 12\]\]"),
    ],
)
def test_settings_that_do_not_go_together(db, message):
    with pytest.raises(UserError, match=message) as error:
        models.build(small_config(NAME, **db), 3)
    assert str(error.value).startswith(f"{NAME}.json: db.") and "\n" not in str(error.value)


def test_one_attention_map_is_enough():
    detector = small_detector(
        NAME, att_ranges=[[0, 64]], att_scales=[[2]], att_nms_ks=[3], init_sizes=[40]
    )
    assert len(detector.network.att_modules[0]) == 1
    with torch.no_grad():
        (maps,) = detector.network.eval()(torch.zeros(1, 3, 63, 47))
    assert [tuple(map_.shape) for map_ in maps.attention] == [(1, 1, 16, 12)]


def test_without_augmentation_training_sees_what_validation_sees():
    detector = small_detector(NAME, data_aug=False)
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3)).astype(np.uint8)
    boxes, labels = np.array([[10, 12, 60, 50]], np.float32), np.array([2])
    first, second = (
        detector.sample(image, boxes, labels, rng) for rng in (None, np.random.default_rng(0))
    )
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.color, second.color)
