"""Weights trained on ImageNet: VGG16 for Faster R-CNN, ResNet-18 for CenterNet."""

import pytest
import torch
from torch import nn
from torchvision.models import ResNet18_Weights, VGG16_Weights, resnet18
from torchvision.models.vgg import make_layers

from core.config.errors import UserError
from core.config.loading import config_from_dict
from core.data.color import MEAN, STD
from core.layers.first_convolution import for_normalized_bgr
from core.models.faster_rcnn import Architecture, FasterRCNN
from core.models.imagenet import VGG16, load_imagenet_weights_
from tests.support.model_builders import small_detector

RESNET = "CenterNet-resnet18"
WHERE = "x.json: model.backbone_weights"


def narrow_network():
    """VGG16's layers with a sixteenth of its channels, and the same as torchvision has them."""
    channels = ((4, 4), (8, 8), (16, 16, 16), (32, 32, 32), (32, 32, 32))
    a = Architecture(channels=channels, head_channels=16)
    torch.manual_seed(0)
    layers = [part for block in channels for part in (*block, "M")]
    vgg = nn.Module()
    vgg.features = make_layers(layers)
    linear = nn.Linear(32 * 49, 16), nn.Linear(16, 16), nn.Linear(16, 3)
    vgg.classifier = nn.Sequential(
        linear[0], nn.ReLU(), nn.Dropout(), linear[1], nn.ReLU(), nn.Dropout(), linear[2]
    )
    return FasterRCNN(2, a, config_from_dict({}, "FasterRCNN", "x").db), vgg


def test_weights_from_imagenet(tmp_path):
    """The backbone sees BGR of this frame and gives what torchvision's gives for RGB."""
    network, vgg = narrow_network()
    for parameter in vgg.parameters():
        nn.init.normal_(parameter, std=0.1)
    path = tmp_path / "vgg16.pth"
    torch.save(vgg.state_dict(), path)
    load_imagenet_weights_(network, str(path), WHERE, VGG16)
    rgb = torch.rand(1, 3, 64, 64)
    bgr = rgb.flip(1)
    own = (bgr - torch.from_numpy(MEAN)[:, None, None]) / torch.from_numpy(STD)[:, None, None]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    theirs = (rgb - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        first, expected = network.backbone[0](own), vgg.features[0](theirs)
        torch.testing.assert_close(first[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])
        assert (first - expected).abs().max() < 0.1  # at the edge, by the padding's colour
        values = torch.randn(2, 32 * 49)
        torch.testing.assert_close(
            network.roi_heads.box_head(values.view(2, 32, 7, 7)),
            vgg.classifier[3](vgg.classifier[0](values).relu()).relu(),
        )
    for key in ("2.weight", "28.bias"):
        assert torch.equal(network.backbone.state_dict()[key], vgg.features.state_dict()[key])


def test_the_first_convolution_is_rewritten_not_changed():
    weight, bias = torch.randn(4, 3, 3, 3), torch.randn(4)
    kept = weight.clone(), bias.clone()
    for_normalized_bgr(weight, bias)
    assert torch.equal(weight, kept[0]) and torch.equal(bias, kept[1])


def test_a_missing_file_of_weights_says_where_to_get_it(tmp_path):
    network, _ = narrow_network()
    with pytest.raises(UserError) as caught:
        load_imagenet_weights_(network, str(tmp_path / "no.pth"), WHERE, VGG16)
    message = str(caught.value)
    assert message.startswith("x.json: model.backbone_weights: there is no file")
    assert VGG16_Weights.IMAGENET1K_V1.url in message and "from scratch" in message


def test_weights_of_another_backbone_are_refused(tmp_path):
    network, vgg = narrow_network()
    path = tmp_path / "weights.pth"
    before = {key: value.clone() for key, value in network.state_dict().items()}
    for key, value in (
        ("features.7.weight", torch.zeros(3)),
        ("classifier.0.bias", torch.full((16,), float("nan"))),  # IMAGENET1K_FEATURES has such
    ):
        torch.save({**vgg.state_dict(), key: value}, path)
        with pytest.raises(UserError, match=r"has no weights for .*IMAGENET1K_V1"):
            load_imagenet_weights_(network, str(path), WHERE, VGG16)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize("published", [True, False])
def test_resnet_starts_from_imagenet(tmp_path, published):
    """The backbone sees BGR of this frame and gives what torchvision's gives for RGB.

    The published file is from before batch norms counted their batches.
    """
    theirs, path = resnet18(weights=None).eval(), tmp_path / "resnet18.pth"
    nn.init.normal_(theirs.bn1.running_mean)
    weights = theirs.state_dict()
    kept = {key: value for key, value in weights.items() if not key.endswith("batches_tracked")}
    assert len(weights) - len(kept) == 20
    torch.save(kept if published else weights, path)
    detector = small_detector(RESNET, model={"backbone_weights": str(path)})
    assert detector.load_pretrained_ is not None
    detector.load_pretrained_()
    body = detector.network.backbone.body.eval()
    rgb = torch.rand(1, 3, 64, 64)
    bgr = rgb.flip(1)
    own = (bgr - torch.from_numpy(MEAN)[:, None, None]) / torch.from_numpy(STD)[:, None, None]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        first = body.bn1(body.conv1(own))
        expected = theirs.bn1(theirs.conv1((rgb - mean[:, None, None]) / std[:, None, None]))
    torch.testing.assert_close(first[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2])
    changed = {
        key for key, value in body.state_dict().items() if not torch.equal(value, weights[key])
    }
    assert changed == {"conv1.weight", "bn1.running_mean"}


def test_a_missing_file_of_imagenet_s_weights_says_where_to_get_it():
    with pytest.raises(UserError) as error:
        small_detector(RESNET, model={"backbone_weights": "no.pth"}).load_pretrained_()
    message = str(error.value)
    assert "model.backbone_weights: there is no file no.pth" in message
    assert ResNet18_Weights.IMAGENET1K_V1.url in message and "\n" not in message
    assert small_detector(RESNET).load_pretrained_ is None


def test_imagenet_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "resnet50.pth"
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path)
    with pytest.raises(UserError) as error:
        small_detector(RESNET, model={"backbone_weights": str(path)}).load_pretrained_()
    message = str(error.value)
    assert "has no weights for backbone.body.bn1.weight [64]; get torchvision's" in message
    assert ResNet18_Weights.IMAGENET1K_V1.url in message and "\n" not in message
