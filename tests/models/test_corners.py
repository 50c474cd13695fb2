"""Configs of the detectors of corners: what is refused, and what reaches the functions."""

import numpy as np
import pytest
import torch

from core import models
from core.config.errors import UserError
from core.config.loading import load_config
from core.data.samples.fit import sample_fit
from core.inference.centers import Geometry
from core.models import cornernet_squeeze
from core.models.corners import CornerArchitecture
from tests.support.inference import detect
from tests.support.model_builders import small_config, small_detector

NAMES = ["CornerNet", "CornerNet_Squeeze"]


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"stack": 1}, "model: unknown key 'stack'; did you mean 'stacks'?"),
        ({"stacks": 0}, "model.stacks must hold numbers of at least 1"),
        ({"blocks": [1, 0, 1]}, "model.blocks must hold numbers of at least 1"),
        ({"stem_channels": []}, "model.stem_channels must hold numbers of at least 1"),
        ({"head_channels": "64"}, "model.head_channels: '64' must be a whole number"),
        ({"channels": [16], "blocks": [1]}, "model.channels must name at least two levels"),
        ({"blocks": [1, 1]}, "model.blocks names 2 levels and .* 3; give both one number a level"),
        (
            {"stem_channels": [8, 12]},
            "channels starts with 16 and .* ends with 12; make them equal",
        ),
        (
            {"channels": [16] * 7, "blocks": [1] * 7},
            "halve the image to 1/256; 1/128 is the most, so give fewer levels",
        ),
        (
            {"channels": [16] * 6, "blocks": [1] * 6},
            r"db.input_size \[63, 47\] cannot be halved to 1/128 and doubled again; give multiples "
            r"of 128 or up to 3 pixels less, such as \[127, 127\]",
        ),
    ],
)
def test_networks_that_cannot_be_made(name, model, message):
    with pytest.raises(UserError, match=message) as error:
        models.build(small_config(name, model), 3)
    assert str(error.value).startswith(f"{name}.json: ") and "\n" not in str(error.value)


def test_output_sizes_must_be_the_network_s(name):
    with pytest.raises(UserError, match=r"makes \[16, 12\]; set db.output_sizes to \[\[16, 12\]\]"):
        models.build(small_config(name, output_sizes=[[12, 16]]), 3)


@pytest.mark.parametrize("name", [*NAMES, "CornerNet_Saccade"])
def test_no_more_detections_than_pairs_of_corners(name):
    small_detector(name, top_k=4, num_dets=16)
    with pytest.raises(UserError, match=r"db.num_dets 17 .* 16 pairs of db.top_k 4 corners") as e:
        small_detector(name, top_k=4, num_dets=17)
    assert "set it to at most 16" in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("side", [61, 62, 63, 64])
def test_sides_that_fit_up_to_the_rounding_of_the_stem(name, side):
    network = small_detector(name, input_size=[side, side], output_sizes=[[16, 16]]).network
    with torch.no_grad():
        (maps,) = network.eval()(torch.zeros(1, 3, side, side))
    assert maps.tl_heatmap.shape == (1, 3, 16, 16)


@pytest.mark.parametrize("side", [60, 65])
def test_sides_that_do_not_fit(name, side):
    with pytest.raises(UserError, match="cannot be halved"):
        small_detector(name, input_size=[side, side], output_sizes=[[16, 16]])


def test_fire_modules_need_even_channels():
    model = {"channels": [16, 17, 24]}
    with pytest.raises(UserError, match=r"channels \[16, 17, 24\] must be even"):
        models.build(small_config("CornerNet_Squeeze", model), 3)
    models.build(small_config("CornerNet", model), 3)


def test_the_published_tables():
    table = CornerArchitecture()
    assert (table.stride, table.coarsest_stride) == (4, 128)
    squeeze = cornernet_squeeze.Architecture()
    assert (squeeze.stride, squeeze.coarsest_stride) == (8, 128)


@pytest.mark.parametrize(
    ("config", "suffix", "expected"),
    [
        ("CornerNet", None, {"test_scales": (1.0,), "merge_bbox": False, "stride": 4}),
        (
            "CornerNet",
            "multi_scale",
            {"test_scales": (0.5, 0.75, 1.0, 1.25, 1.5), "merge_bbox": True, "weight_exp": 10.0},
        ),
        ("CornerNet_Squeeze", None, {"test_scales": (1.0,), "test_flipped": False, "stride": 8}),
    ],
)
def test_published_configs_reach_the_functions(config, suffix, expected):
    with torch.device("meta"):
        detector = models.build(load_config(config, suffix), 80)
    settings = vars(detector.infer.keywords["settings"])
    assert {key: settings[key] for key in expected} == expected
    assert detector.sample.keywords["settings"].scales == pytest.approx(np.arange(0.6, 1.4, 0.1))


def test_without_data_aug_training_images_are_those_of_validation(name):
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    boxes, labels = np.array([[10, 12, 60, 50]], np.float32), np.array([2])
    plain = small_detector(name, data_aug=False)
    for seed in range(4):
        drawn = plain.sample(image, boxes, labels, np.random.default_rng(seed))
        kept = small_detector(name).sample(image, boxes, labels, None)
        assert all(np.array_equal(vars(drawn)[key], vars(kept)[key]) for key in vars(kept))
        augmented = small_detector(name).sample(image, boxes, labels, np.random.default_rng(seed))
        assert not np.array_equal(augmented.color, kept.color)


@pytest.mark.parametrize("name", [*NAMES, "CenterNet"])
def test_whole_images_reach_samples_and_inference(name):
    db = {"sampling": "fit", "zoom": [0.9, 1.1], "quarter_turns": True, "test_scales": [1, 1.5]}
    detector = small_detector(name, **db)
    assert detector.sample.func is sample_fit
    sample = detector.sample.keywords["settings"]
    assert (sample.input_size, sample.zoom, sample.quarter_turns) == ((63, 47), (0.9, 1.1), True)
    settings = detector.infer.keywords["settings"]
    assert settings.test_scales == (1.0, 1.5)
    if name == "CenterNet":
        assert settings.geometry == Geometry("fit", (63, 47), 16, 4)
    else:
        assert (settings.fit_size, settings.coarsest_stride) == ((63, 47), 16)
    seen = []

    def predict(images):
        seen.append(tuple(images.shape[1:]))
        return detector.decode(detector.network.eval()(images))

    detect(detector, np.full((126, 80, 3), 99, np.uint8), predict)
    assert seen == [(3, 63, 47), (3, 95, 63)]


@pytest.mark.parametrize("name", NAMES)
def test_crops_are_tested_at_the_images_own_size(name):
    settings = small_detector(name).infer.keywords["settings"]
    assert settings.fit_size is None and settings.test_scales == (1.0,)
