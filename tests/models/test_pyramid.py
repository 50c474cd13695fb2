"""Detectors on a pyramid: what they are made of, which configs are refused, how they learn."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from core import models
from core.checkpoint import snapshot as checkpoint
from core.config.errors import UserError
from core.config.loading import load_config
from core.layers.backbones import Backbone, make_backbone
from core.layers.pyramid import pad_to_cells
from core.models import pyramid
from tests.support.inference import detect
from tests.support.model_builders import PYRAMIDS, small_config, small_detector
from tests.support.model_losses import image_batch, losses

CENTRIPETAL = {"tl_shifts", "br_shifts", "tl_offset_bins", "br_offset_bins", "center_heats"}
HEADS = {
    "CornerNet-lite": {"tl_tags", "br_tags", "tl_offs", "br_offs"},
    "CornerNet-resnet18": CENTRIPETAL,
    "CornerNet_Lite0": CENTRIPETAL,
    "CenterNet-lite": {"hm", "wh", "reg"},
    "FasterRCNN-lite": {"rpn", "roi_heads"},
    "FasterRCNN-resnet18": {"rpn", "roi_heads"},
}
CORNERS = {f"{corner}_{part}" for corner in ("tl", "br") for part in ("modules", "heats")}


@pytest.fixture(params=PYRAMIDS)
def name(request):
    return request.param


def test_state_dict_keys(name):
    """The backbone's own, those of the pyramid, and those that the heads have elsewhere."""
    detector = small_detector(name)
    keys = list(detector.network.state_dict())
    heads = HEADS[name] | (CORNERS if name.startswith("Corner") else set())
    assert {key.split(".")[0] for key in keys} == {"backbone", "pyramid"} | heads
    backbone = small_config(name).model.get("backbone", "efficientnet_lite0")
    expected = [f"backbone.{key}" for key in make_backbone(backbone, "x").state_dict()]
    assert [key for key in keys if key.startswith("backbone.")] == expected


def test_the_stages_are_the_backbone_s_parameters(name):
    detector = small_detector(name)
    stages = detector.stages()
    inside = [id(value) for stage in stages for value in stage.parameters()]
    backbone = {id(value) for value in detector.network.backbone.parameters()}
    assert len(stages) == 4 and len(inside) == len(set(inside)) and set(inside) == backbone


@pytest.mark.parametrize("name", ["CornerNet", "CenterNet", "CornerNet_Saccade", "FasterRCNN"])
def test_networks_without_a_pretrained_backbone_have_no_stages(name):
    assert small_detector(name).stages() == ()


def test_the_stages_of_centernet_s_resnet18():
    detector = small_detector("CenterNet-resnet18")
    body = detector.network.backbone.body
    inside = [id(value) for stage in detector.stages() for value in stage.parameters()]
    assert len(detector.stages()) == 4 and inside == [id(value) for value in body.parameters()]
    assert body.layer1 in detector.stages()[0].modules()


@pytest.mark.parametrize(
    "change",
    [
        {},
        pytest.param({"backbone": "resnet18"}, id="resnet18"),
    ],
)
@pytest.mark.parametrize("name", ["CornerNet-lite", "CenterNet-lite", "FasterRCNN-lite"])
def test_the_loss_of_one_image_falls(name, change):
    if name.startswith("CenterNet") and change:
        change = {"backbone": "resnet50"}  # with resnet18 CenterNet has no pyramid
    detector = small_detector(name, model=change)
    images = image_batch(name, 1)
    optimizer = torch.optim.Adam(detector.network.parameters(), 0.003)
    values = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = torch.stack(list(losses(detector, images).values())).sum()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert min(values[-2:]) < 0.85 * values[0], values


def test_odd_sizes_of_images(name):
    network = small_detector(name).network.eval()
    for size in ((97, 131), (33, 64), (63, 47)):
        with torch.no_grad():
            (first, *_) = network(torch.randn(2, 3, *size))
        if name.startswith("FasterRCNN"):
            assert (first["boxes"][:, 2:] <= torch.tensor([size[1], size[0]])).all()
        else:
            stride = small_config(name).model.get("stride", 8)
            heatmap = first.heatmap if name.startswith("CenterNet") else first.tl_heatmap
            assert list(heatmap.shape[2:]) == [-(-side // 32) * 32 // stride for side in size]


@pytest.mark.parametrize("name", ["CornerNet-lite", "FasterRCNN-lite", "FasterRCNN-resnet18"])
def test_channels_last_gives_the_same_map_in_float64(name):
    network = small_detector(name).network.double()
    other = copy.deepcopy(network).to(memory_format=torch.channels_last)
    images = image_batch(name, 2).double()
    found = []
    for each, given in ((network, images), (other, images.to(memory_format=torch.channels_last))):
        (stack,) = each.pyramid(each.backbone(pad_to_cells(given)))
        weights = torch.linspace(-1, 1, stack.features.numel(), dtype=torch.float64)
        (stack.features * weights.view(stack.features.shape)).sum().backward()
        found.append([stack.features, *(value.grad for value in each.backbone.parameters())])
    torch.testing.assert_close(found[1], found[0], rtol=1e-8, atol=1e-8)


def test_another_number_of_classes_keeps_all_but_the_class_heads(name, tmp_path):
    detector, path = small_detector(name, num_classes=5), tmp_path / "five.pth"
    torch.save(detector.network.state_dict(), path)
    other = small_detector(name, num_classes=3, seed=1)
    keys = other.class_head_keys
    left = checkpoint.load_weights(other.network, path, keys, fine_tune=True)
    assert left and all(key.startswith(keys) for key in left)
    weights = detector.network.state_dict()
    for key, value in other.network.state_dict().items():
        assert key in left or torch.equal(value, weights[key]), key


def with_detections(name, **db):
    """A detector that finds boxes in noise."""
    detector = small_detector(name, sampling="fit", input_size=[64, 96], **db)
    for module in detector.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    detector.network(image_batch(name, 4))  # statistics of noise
    for key, value in detector.network.eval().state_dict().items():
        if ("_heats.0.1." in key or "hm.0.1." in key) and key.endswith("weight"):
            value *= 10  # heatmaps with peaks
        elif "_tags.0.1." in key or "offs.0.1." in key:
            value.zero_()  # any two corners make a pair
        elif "reg.0.1." in key or "wh.0.1." in key:  # offset: half a cell, size: 3 cells
            constant = 0.5 if "reg" in key else 3.0
            value.fill_(constant if key.endswith("bias") else 0.0)
    return detector


@pytest.mark.parametrize("name", ["CornerNet-lite", "CenterNet-lite"])
def test_a_mirrored_image_is_tested_too(name):
    """An image and its mirror image then have mirrored boxes; without it, others."""
    image = np.random.default_rng(3).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    scores, boxes = {}, {}
    for flipped in (True, False):
        detector = with_detections(name, test_flipped=flipped)
        predict = detector.predict(torch.device("cpu"))
        with torch.inference_mode():
            for mirrored in (False, True):
                given = image[:, ::-1].copy() if mirrored else image
                found = detect(detector, given, predict)
                scores[flipped, mirrored] = found.scores
                boxes[flipped, mirrored] = found.boxes
    assert len(scores[True, False]) > 3
    np.testing.assert_allclose(scores[True, False], scores[True, True], rtol=1e-4, atol=1e-6)
    back = boxes[True, True].copy()
    back[:, [0, 2]] = 96 - boxes[True, True][:, [2, 0]]
    np.testing.assert_allclose(
        np.sort(boxes[True, False], axis=0), np.sort(back, axis=0), rtol=0, atol=0.01
    )
    one, other = scores[False, False], scores[False, True]
    assert len(one) != len(other) or not np.allclose(one, other, rtol=1e-3)


@pytest.mark.parametrize("name", PYRAMIDS)
def test_weights_are_loaded_into_the_backbone_by_their_name(name, monkeypatch):
    calls = []
    monkeypatch.setattr(pyramid, "load_backbone_", lambda *given: calls.append(given))
    assert small_detector(name).load_pretrained_ is None
    detector = small_detector(name, model={"backbone_weights": "some.pth"})
    assert detector.load_pretrained_ is not None and not calls
    detector.load_pretrained_()
    backbone = small_config(name).model.get("backbone", "efficientnet_lite0")
    where = f"{name}.json: model.backbone_weights"
    assert calls == [(detector.network.backbone, backbone, "some.pth", where)]
    assert isinstance(calls[0][0], Backbone)


def test_a_missing_file_of_weights_is_one_line():
    detector = small_detector("CornerNet-resnet18", model={"backbone_weights": "no.pth"})
    with pytest.raises(UserError, match=r"model\.backbone_weights: .*no\.pth") as error:
        detector.load_pretrained_()
    assert "\n" not in str(error.value)


def test_the_shipped_config_takes_the_packaged_weights_and_builds_without_them(monkeypatch):
    calls = []
    monkeypatch.setattr(pyramid, "load_backbone_", lambda *given: calls.append(given[1:3]))
    config = load_config("CornerNet_Lite0")
    detector = models.build(config, 3)
    assert calls == []
    detector.load_pretrained_()
    assert calls == [("efficientnet_lite0", "package")]
    parameters = sum(value.numel() for value in detector.network.parameters())
    assert parameters == 4_191_089
    with torch.no_grad():
        (maps,) = detector.network.eval()(torch.zeros(1, 3, *config.db.input_size))
    assert tuple(maps.tl_heatmap.shape[2:]) == config.db.output_size
    assert maps.tl_shift.shape[1] == 2


@pytest.mark.parametrize("name", ["CornerNet_Squeeze", "CornerNet_Saccade", "CentripetalNet"])
def test_published_networks_keep_their_hourglasses(name):
    with pytest.raises(UserError) as error:
        small_detector(name, model={"backbone": "resnet18", "stride": 8})
    assert str(error.value) == (
        f"{name}.json: model.backbone: {name} is made of hourglasses alone, not of 'resnet18'; "
        "leave that out, or take CornerNet, CenterNet or FasterRCNN"
    )
    small_detector(name, model={"backbone": "hourglass"})


@pytest.mark.parametrize(
    ("name", "model", "message"),
    [
        (
            "CornerNet-lite",
            {"stacks": 2},
            r"unknown key 'stacks' with model\.backbone 'efficient.*"
            r"; leave it out: 'hourglass' has it",
        ),
        ("CornerNet_Lite0", {"channels": [8]}, r"unknown key 'channels'"),
        (
            "CornerNet",
            {"stride": 8},
            r"unknown key 'stride' with model\.backbone 'hourglass'; "
            "leave it out: other backbones have it",
        ),
        ("CenterNet", {"backbone_weights": "x"}, r"unknown key 'backbone_weights' with"),
        ("CornerNet-lite", {"strides": 8}, r"unknown key 'strides'; did you mean 'stride'"),
        ("CornerNet-lite", {"stride": 16}, r"model\.stride: 16 must be one of 4, 8"),
        ("CornerNet-lite", {"head_channels": 0}, r"head_channels must hold numbers of at least 1"),
        (
            "CornerNet-lite",
            {"backbone": "resnet19"},
            r"'resnet19' must be one of hourglass, .*"
            r"did you mean 'resnet18'\?",
        ),
        ("CornerNet-lite", {"backbone": 18}, r"model\.backbone: 18 must be a string"),
        ("CenterNet-lite", {"up_channels": [8, 8, 8]}, r"unknown key 'up_channels'"),
        ("FasterRCNN-lite", {"channels": [[8]]}, r"unknown key 'channels'"),
        ("FasterRCNN-lite", {"stride": 4}, r"model\.stride: 4 must be one of 8, 16"),
        ("FasterRCNN-lite", {"pyramid_channels": 0}, r"pyramid_channels must hold numbers above"),
        ("FasterRCNN-lite", {"backbone": "vgg17"}, r"'vgg17' must be one of vgg, efficientnet"),
        ("FasterRCNN", {"pyramid_channels": 8}, r"unknown key 'pyramid_channels'"),
    ],
)
def test_sections_that_are_refused(name, model, message):
    with pytest.raises(UserError, match=message) as error:
        small_detector(name, model=model)
    assert str(error.value).startswith(f"{name}.json: model")
    assert "\n" not in str(error.value)


def test_sizes_that_the_network_does_not_make_are_refused():
    with pytest.raises(UserError, match=r"cannot be halved to 1/32"):
        small_detector("CornerNet-lite", input_size=[63, 47])
    with pytest.raises(UserError, match=r"the network makes \[8, 12\]"):
        small_detector("CornerNet-lite", output_sizes=[[16, 24]])


def test_only_the_backbone_of_regions_is_compiled():
    detector = small_detector("FasterRCNN-lite")
    assert detector.compilable is detector.network.backbone
