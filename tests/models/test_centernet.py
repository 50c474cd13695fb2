"""The complete CenterNet: the reference's numbers, both backbones, configs."""

import json

import numpy as np
import pytest
import torch
from torchvision.models import resnet18

from core import models
from core.checkpoint import snapshot as checkpoint
from core.config.errors import UserError
from core.config.loading import config_from_dict, load_config
from core.decode.centers import decode_images
from core.layers.resnet import UpsampledResNet18
from core.targets.centers import CenterTargets
from tests.models.test_golden import Golden, set_momentum_
from tests.support.centers_golden import DATA, sparse_heatmap
from tests.support.model_builders import (
    load_formula_weights_,
    manifest,
    published_detector,
    small_detector,
)
from tests.targets.test_corners import make_batch

NAME = "CenterNet"
HEADS = {"heatmap": "hm", "size": "wh", "offset": "reg"}
LOSSES = {"heatmap": "hm_loss", "size": "wh_loss", "offset": "off_loss"}


class CenterGolden(Golden):
    """The entries of the section ``net_`` of ``centernet.npz``."""

    def __post_init__(self):
        self.file = DATA

    def __getitem__(self, key):
        return self.file[f"net_{key}"]

    def images(self):
        rng = np.random.default_rng(int(self["input_seed"]))
        images = rng.standard_normal((2, 3, 256, 256)).astype(np.float32)
        np.testing.assert_array_equal(images.flat[:16], self["input_val"])
        return torch.from_numpy(images)

    def targets(self):
        index, size, offset, mask = (
            torch.from_numpy(self[f"gt_{key}"]) for key in ("ind", "wh", "reg", "mask")
        )
        heatmap = sparse_heatmap("net_gt_hm", self["gt_hm_shape"])
        return CenterTargets(heatmap, index, size, offset, mask.bool())

    def batch(self):
        objects = [np.array(rows, np.float32) for rows in json.loads(str(self["boxes"]))]
        return make_batch([rows - np.float32([0, 0, 0, 0, 1]) for rows in objects], 256, 256)

    def compare(self, maps, prefix, suffix="", tolerance=5e-3):
        for name, key in HEADS.items():
            self.compare_map(getattr(maps, name), f"{prefix}_{key}{suffix}", tolerance)


GOLDEN = CenterGolden(NAME)


@pytest.mark.slow
def test_forward_loss_gradients_and_decoding():
    detector, images = published_detector(NAME), GOLDEN.images()
    load_formula_weights_(detector, NAME)
    network = detector.network
    set_momentum_(network, 1.0)
    outputs = network(images)
    assert len(outputs) == 2
    for stack, maps in enumerate(outputs):
        GOLDEN.compare(maps, "train", f"_{stack}")

    terms = detector.losses(outputs, GOLDEN.targets())
    for name, key in LOSSES.items():
        expected = float(GOLDEN[key]) * (0.1 if name == "size" else 1)
        tolerance = 1e-5 if name == "heatmap" else 1e-4
        assert terms[name].item() == pytest.approx(expected, rel=tolerance)
    loss = sum(terms.values())
    assert loss.item() == pytest.approx(float(GOLDEN["loss"]), rel=1e-5)
    GOLDEN.check_gradients(network, loss)

    network.eval()
    with torch.no_grad():
        maps = network(images)
    GOLDEN.compare(maps[0], "eval", tolerance=2e-2)
    found = decode_images(maps, mirrored=False, top_k=int(GOLDEN["decode_K"]), kernel=3)
    np.testing.assert_allclose(found[:, :20, 4], GOLDEN["decode_top"], atol=1e-4)


def test_targets_of_the_golden_boxes():
    detector = models.build(small_config(input_size=[256, 256], output_sizes=[[64, 64]]), 80)
    targets, expected = detector.targets(GOLDEN.batch()), GOLDEN.targets()
    torch.testing.assert_close(targets.heatmap, expected.heatmap, rtol=0, atol=1e-6)
    slots = targets.mask.shape[1]
    for name in ("mask", "index"):
        assert torch.equal(getattr(targets, name), getattr(expected, name)[:, :slots])
    for name in ("size", "offset"):
        wanted = getattr(expected, name)[:, :slots]
        torch.testing.assert_close(getattr(targets, name), wanted, rtol=0, atol=2e-5)


def small_config(model=None, **db):
    """A config with a small hourglass, or with ``model``, and the dataset's settings."""
    small = {"stacks": 1, "stem_channels": [4, 8], "channels": [8, 8], "blocks": [1, 1]}
    model = small | {"head_channels": 8} if model is None else model
    sizes = {"input_size": [64, 96], "output_sizes": [[16, 24]], "top_k": 10}
    return config_from_dict({"db": sizes | db, "model": model}, NAME, f"{NAME}.json")


def test_published_snapshots_load(tmp_path):
    """A dictionary with the published names loads completely, with a prefix or without."""
    network = small_detector(NAME).network
    weights = {key: torch.rand_like(value.float()) for key, value in network.state_dict().items()}
    kinds = {key.split(".")[0] for key in weights}
    assert kinds == {key.split(".")[0] for key, _ in manifest(NAME)}
    for prefix in ("", "module."):
        path = tmp_path / f"model_best{prefix}pth"
        state = {prefix + key: value for key, value in weights.items()}
        torch.save({"epoch": 50, "state_dict": state, "optimizer": {"state": {}}}, path)
        other = small_detector(NAME, seed=1)
        assert checkpoint.load_weights(other.network, path, other.class_head_keys) == []
        for key, value in other.network.state_dict().items():
            torch.testing.assert_close(value, weights[key].to(value.dtype))


def test_fine_tuning_leaves_the_class_heads(tmp_path):
    detector, path = small_detector(NAME, num_classes=5), tmp_path / "five.pth"
    torch.save({"epoch": 1, "state_dict": detector.network.state_dict()}, path)
    other = small_detector(NAME, num_classes=3)
    left = checkpoint.load_weights(other.network, path, other.class_head_keys, fine_tune=True)
    assert left == [f"hm.{stack}.1.{kind}" for stack in range(2) for kind in ("weight", "bias")]


def test_resnet_is_torchvision_s():
    body = UpsampledResNet18((16, 12, 8)).body.state_dict()
    theirs = resnet18(weights=None).state_dict()
    assert [key for key in theirs if not key.startswith("fc.")] == list(body)


@pytest.mark.parametrize("name", ["CenterNet", "CenterNet-resnet18", "CenterNet-shapes"])
def test_maps_of_shipped_configs(name):
    config = load_config(name)
    with torch.device("meta"):
        detector = models.build(config, 4)
        maps = detector.network(torch.zeros(2, 3, *config.db.input_size))[-1]
    assert tuple(maps.heatmap.shape) == (2, 4, *config.db.output_size)


@pytest.mark.parametrize(
    ("model", "db", "message"),
    [
        ({"backbone": "vgg"}, {}, r"model.backbone: 'vgg' must be one of hourglass, .*resnet18"),
        ({"backbone": "resnet18", "stacks": 2}, {}, "unknown key 'stacks'"),
        ({"pooling_channels": 2}, {}, "unknown key 'pooling_channels'"),
        ({"backbone": "resnet18", "up_channels": [8, 8]}, {}, "a list of 3"),
        ({"backbone": "resnet18", "head_channels": 0}, {}, "head_channels must hold numbers of at"),
        ({"backbone": "resnet18"}, {"input_size": [63, 47]}, r"cannot be halved to 1/32"),
        ({"backbone": "resnet18"}, {"output_sizes": [[8, 8]]}, r"the network makes \[16, 24\]"),
        ({"backbone": ["resnet18"]}, {}, r"model.backbone: \['resnet18'\] must be a string"),
        (None, {"test_resolution": "fixed"}, "must be one of 'keep', 'fix'"),
    ],
)
def test_configs_that_are_refused(model, db, message):
    with pytest.raises(UserError, match=message) as error:
        models.build(small_config(model, **db), 3)
    assert "\n" not in str(error.value)


def test_every_map_of_the_hourglass_halves_within_the_padding():
    """Padded test images are multiples of the coarsest cell: 128 pixels for hourglass-104."""
    geometry = published_detector(NAME).infer.keywords["settings"].geometry
    assert geometry.coarsest_stride == 128
    settings = small_detector("CenterNet-resnet18").infer.keywords["settings"]
    assert settings.geometry.coarsest_stride == 32
