"""Backbones: the four maps, their stages, the input that each network gets, and what is refused."""

import importlib.util
import sys
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from core.config.errors import UserError
from core.data.color import MEAN, STD
from core.layers.backbones import (
    NAMES,
    STRIDES,
    Backbone,
    Chain,
    DepthwiseConv,
    make_backbone,
)

WHERE = "x.json: model.backbone"
needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="timm is not installed"
)
TIMM_NAMES = ("timm:resnet18", "timm:tf_efficientnet_lite0", "timm:mobilenetv3_small_050")
EVERY = [*NAMES, *(pytest.param(name, marks=needs_timm) for name in TIMM_NAMES)]
CHANNELS = {
    "efficientnet_lite0": (24, 40, 112, 320),
    "resnet18": (64, 128, 256, 512),
    "resnet50": (256, 512, 1024, 2048),
    "vgg16": (128, 256, 512, 512),
    "timm:resnet18": (64, 128, 256, 512),
    "timm:tf_efficientnet_lite0": (24, 40, 112, 320),
    "timm:mobilenetv3_small_050": (8, 16, 24, 288),
}


def backbone(name):
    torch.manual_seed(0)
    return make_backbone(name, WHERE)


@pytest.mark.parametrize("name", EVERY)
@torch.no_grad()
def test_there_are_four_maps_of_any_image(name):
    network = backbone(name).eval()
    assert network.channels == CHANNELS[name]
    for height, width in ((96, 160), (101, 75), (1, 33)):
        maps = network(torch.randn(2, 3, height, width))
        assert [tuple(value.shape) for value in maps] == [
            (2, channels, -(-height // stride), -(-width // stride))
            for channels, stride in zip(network.channels, STRIDES, strict=True)
        ]


@pytest.mark.parametrize("name", EVERY)
def test_a_map_depends_on_every_parameter_of_its_stage_and_of_those_before(name):
    network = backbone(name)
    stages = [list(stage.parameters()) for stage in network.stages]
    inside = [parameter for stage in stages for parameter in stage]
    assert list(map(id, inside)) == list(map(id, network.parameters()))  # all, once, in order
    maps = network(torch.randn(2, 3, 64, 64))
    for i, value in enumerate(maps):
        gradients = torch.autograd.grad(value.sum(), inside, retain_graph=True, allow_unused=True)
        reached = sum(len(stage) for stage in stages[: i + 1])
        assert all(gradient is not None for gradient in gradients[:reached])
        assert all(gradient is None for gradient in gradients[reached:])


@pytest.mark.parametrize("name", EVERY)
def test_buffers_are_in_the_stages_too(name):
    network = backbone(name)
    inside = [buffer for stage in network.stages for buffer in stage.buffers()]
    assert list(map(id, inside)) == list(map(id, network.body.buffers()))


@pytest.mark.parametrize("name", EVERY)
def test_keys_are_the_same_every_time_and_only_those_of_the_body(name):
    keys = list(backbone(name).state_dict())
    assert keys == list(backbone(name).state_dict())
    assert all(key.startswith("body.") for key in keys)


def test_the_last_keys_of_each_network():
    """Weights of trained detectors depend on them."""
    last = {name: [*backbone(name).state_dict()][-1] for name in NAMES}
    assert last == {
        "efficientnet_lite0": "body.3.block15.project.bn.num_batches_tracked",
        "resnet18": "body.3.1.bn2.num_batches_tracked",
        "resnet50": "body.3.2.bn3.num_batches_tracked",
        "vgg16": "body.3.28.bias",
    }


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("resnet18", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("vgg16", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("efficientnet_lite0", (127 / 255,) * 3, (128 / 255,) * 3),
        pytest.param(
            "timm:resnet18", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), marks=needs_timm
        ),
        pytest.param("timm:tf_efficientnet_lite0", (0.5,) * 3, (0.5,) * 3, marks=needs_timm),
    ],
)
def test_a_network_gets_the_images_that_its_weights_were_trained_on(name, mean, std):
    """BGR with this package's mean and deviation goes in; RGB with the network's own arrives."""
    network = backbone(name)
    network.body = nn.Identity()
    rgb = torch.rand(2, 3, 5, 7)
    own = (rgb.flip(1) - column(MEAN)) / column(STD)
    torch.testing.assert_close(network(own), (rgb - column(mean)) / column(std))


def column(values):
    return torch.as_tensor(values)[:, None, None]


def test_replaced_modules_are_found_in_the_stages():
    """As where batch norms become those that processes share."""
    network = backbone("resnet18")
    before = [len(list(stage.modules())) for stage in network.stages]
    network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    assert [len(list(stage.modules())) for stage in network.stages] == before
    norms = [part for stage in network.stages for part in stage.modules() if "Norm" in str(part)]
    assert norms and not any(type(part) is nn.BatchNorm2d for part in norms)


@pytest.mark.parametrize(("name", "multiple"), [("efficientnet_lite0", 1), ("vgg16", 32)])
@torch.no_grad()
def test_one_exported_program_serves_every_size(name, multiple):
    network = backbone(name).eval()
    least = 64 // multiple  # with at least two cells at stride 32
    sides = [multiple * torch.export.Dim(side, min=least) for side in ("height", "width")]
    program = torch.export.export(
        network, (torch.randn(1, 3, 64, 96),), dynamic_shapes=({2: sides[0], 3: sides[1]},)
    )
    for size in ((64, 96), (96, 64)) if multiple > 1 else ((64, 96), (101, 75), (90, 130)):
        images = torch.randn(1, 3, *size)
        torch.testing.assert_close(program.module()(images), network(images))


@pytest.mark.parametrize("name", ["resnet18", pytest.param(TIMM_NAMES[1], marks=needs_timm)])
@torch.no_grad()
def test_networks_can_be_exported(name):
    network, images = backbone(name).eval(), torch.randn(1, 3, 64, 96)
    program = torch.export.export(network, (images,))
    torch.testing.assert_close(program.module()(images), network(images))


@torch.no_grad()
def test_cells_of_efficientnet_lie_at_the_same_place_for_every_size():
    """An odd image is as one with another row and column of zeros, in what its body gets."""
    body = backbone("efficientnet_lite0").body.eval()
    images = torch.randn(1, 3, 101, 75)
    for value, expected in zip(body(images), body(F.pad(images, (0, 1, 0, 1))), strict=True):
        assert torch.equal(value, expected)


def depthwise(dtype=torch.float32):
    """A depthwise convolution, the same as PyTorch's own, and an input."""
    torch.manual_seed(0)
    arguments = {"stride": 2, "padding": 2, "groups": 6, "bias": False, "dtype": dtype}
    own, plain = DepthwiseConv(6, 6, 5, **arguments), nn.Conv2d(6, 6, 5, **arguments)
    plain.load_state_dict(own.state_dict())
    return own, plain, torch.randn(2, 6, 9, 12, dtype=dtype)


def autocast(enabled=True):
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled)


@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_a_depthwise_convolution_trains_in_float32_under_autocast(given):
    """Its values and gradients are those of PyTorch's own without autocast, bit for bit."""
    own, plain, images = depthwise()
    found, expected = (images.to(given, copy=True).requires_grad_() for _ in range(2))
    with autocast():
        output = own(found)
        assert plain(images).dtype == torch.bfloat16  # what is avoided
    wanted = plain(expected.float())
    assert output.dtype == torch.float32 and torch.equal(output, wanted)
    output.square().sum().backward()
    wanted.square().sum().backward()
    assert own.weight.grad.dtype == torch.float32
    assert torch.equal(own.weight.grad, plain.weight.grad)
    assert found.grad.dtype == given and torch.equal(found.grad, expected.grad)


@pytest.mark.parametrize("enabled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_depthwise_convolution_is_plain_where_nothing_is_faster(dtype, enabled):
    """Without gradients in any case, and always without autocast; float64 stays float64."""
    own, plain, images = depthwise(dtype)
    with autocast(enabled):
        with torch.no_grad():
            output, expected = own(images), plain(images)
        half = enabled and dtype == torch.float32
        assert output.dtype == expected.dtype == (torch.bfloat16 if half else dtype)
        assert torch.equal(output, expected)
        if not half:
            output, expected = own(images), plain(images)
            assert output.dtype == dtype and torch.equal(output, expected)


@torch.no_grad()
def test_vgg_s_poolings_round_up():
    body = backbone("vgg16").body.eval()
    images = torch.rand(1, 3, 6, 6)
    assert torch.equal(body[0][4](images[..., :5, :5])[..., 2, 2], images[..., 4, 4])


@needs_timm
@torch.no_grad()
def test_efficientnet_lite0_is_timm_s():
    """Another implementation, with TensorFlow's padding, gives the same maps for even sizes."""
    ours, theirs = backbone("efficientnet_lite0"), backbone("timm:tf_efficientnet_lite0")
    generator = torch.Generator().manual_seed(0)
    weights = [
        torch.empty_like(value).uniform_(0.5, 1.5, generator=generator)
        * (1 if value.ndim < 2 else torch.randn(value.shape, generator=generator) / 9)
        if value.is_floating_point()
        else value
        for value in theirs.state_dict().values()
    ]
    for network in (ours, theirs):
        keys = network.state_dict().keys()
        network.load_state_dict(dict(zip(keys, weights, strict=True)))
        network.eval()
    images = torch.randn(1, 3, 96, 160)
    for own, their in zip(ours.body(images), theirs.body(images), strict=True):
        assert own.std() > 0
        torch.testing.assert_close(own, their)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UserError) as caught:
        make_backbone("resnet5", WHERE)
    message = str(caught.value)
    assert message.startswith(f"{WHERE}: there is no backbone 'resnet5'; did you mean 'resnet50'?")
    assert "timm:NAME" in message and "\n" not in message


def test_without_timm_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"need timm .*: pip install timm$"):
        make_backbone("timm:resnet18", WHERE)


@needs_timm
@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("resnet19", "has no network 'resnet19'; similar names are .*resnet18"),
        ("resnet18.no_such_tag", "has no network 'resnet18.no_such_tag'"),
        ("hf-hub:someone/resnet18", "has no network 'hf-hub:"),
        ("vit_tiny_patch16_224", "strides 4, 8, 16 and 32 .*: it has maps at strides 16$"),
        ("swin_tiny_patch4_window7_224", "for any image size: .*224"),
        ("mambaout_femto", r"its maps for 96 x 160 pixels .*40, 48\)"),
        ("hrnet_w18_small", "not made of stages that follow each other"),
    ],
)
def test_networks_of_timm_that_do_not_fit_are_refused(name, cause):
    with pytest.raises(UserError, match=cause) as caught:
        make_backbone(f"timm:{name}", WHERE)
    assert str(caught.value).startswith(WHERE) and "\n" not in str(caught.value)


def test_a_backbone_of_one_s_own_network():
    body = Chain(*(nn.Conv2d(3, 3, 1) for _ in range(4)))
    network = Backbone(body, [["0"], ["1"], ["2"], ["3"]], (3,) * 4, ((0.5,) * 3, (0.5,) * 3))
    maps = network(torch.randn(1, 3, 4, 4))
    for module, (before, after) in zip(body[1:], pairwise(maps), strict=True):
        assert torch.equal(module(before), after)
    assert [stage[0] for stage in network.stages] == list(body)
