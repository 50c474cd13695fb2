"""Complete networks with formula weights, compared with the reference's outputs."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from core.decode.corners import decode_corners
from core.losses.corners import corner_losses
from core.structures import Batch, CornerMaps
from core.targets.corners import CornerTargets
from tests.support.model_builders import GOLDEN, load_formula_weights_, published_detector

HEADS = {
    "tl_heatmap": "tl_heat",
    "br_heatmap": "br_heat",
    "tl_embedding": "tl_tag",
    "br_embedding": "br_tag",
    "tl_offset": "tl_off",
    "br_offset": "br_off",
}
# Of a head's std.
VALUE_TOLERANCE = {"CornerNet": 2e-2, "CornerNet_Squeeze": 5e-3, "CornerNet_Saccade": 5e-3}


@dataclass
class Golden:
    """Entries of ``model_forward.npz`` of one model, by name without the model's."""

    name: str

    def __post_init__(self):
        self.file = np.load(GOLDEN / "model_forward.npz")

    def __getitem__(self, key):
        return self.file[f"{self.name}_{key}"]

    def images(self):
        rng = np.random.default_rng(int(self["input_seed"]))
        images = rng.standard_normal((2, 3, 255, 255)).astype(np.float32)
        np.testing.assert_array_equal(images.flat[:16], self["input_val"])
        return torch.from_numpy(images)

    def heatmap(self, corner):
        heatmap = np.zeros(self[f"gt_{corner}_heat_shape"], np.float32)
        heatmap.flat[self[f"gt_{corner}_heat_idx"]] = self[f"gt_{corner}_heat_val"]
        return torch.from_numpy(heatmap)

    def targets(self):
        given = {
            f"{corner}_{ours}": torch.from_numpy(self[f"gt_{corner}_{theirs}"])
            for corner in ("tl", "br")
            for ours, theirs in (("index", "ind"), ("offset", "off"))
        }
        return CornerTargets(
            tl_heatmap=self.heatmap("tl"),
            br_heatmap=self.heatmap("br"),
            mask=torch.from_numpy(self["gt_mask"]).bool(),
            **given,
        )

    def batch(self):
        """A batch with the images' boxes, as from the workers."""
        boxes = torch.zeros(2, 4, 5)
        rows = json.loads(str(self["boxes"]))
        for row, objects in enumerate(rows):
            boxes[row, : len(objects)] = torch.tensor(objects)
        return Batch(
            images=torch.zeros(2, 3, 255, 255, dtype=torch.uint8),
            boxes=boxes[..., :4].clamp(0, 254),
            labels=(boxes[..., 4].long() - 1).clamp(min=0),
            counts=torch.tensor([len(objects) for objects in rows]),
            color=torch.zeros(2, 3, 4),
            index=torch.arange(2),
            unreadable=torch.zeros(0, dtype=torch.int64),
        )

    def compare(self, maps: CornerMaps, prefix: str, suffix: str = ""):
        """Compares a stack's maps with the stored means, deviations and 64 values of each."""
        for head, key in HEADS.items():
            self.compare_map(getattr(maps, head), f"{prefix}_{key}{suffix}")

    def compare_map(self, map_: torch.Tensor, key: str, tolerance: float | None = None):
        """Compares a map with the one stored under ``key``, up to ``tolerance`` of its std."""
        map_, std = map_.detach(), float(self[f"{key}_std"])
        assert list(map_.shape) == self[f"{key}_shape"].tolist()
        mean = float(self[f"{key}_mean"])
        assert map_.double().mean().item() == pytest.approx(mean, abs=1e-3 * std)
        assert map_.double().std(correction=0).item() == pytest.approx(std, abs=1e-3 * std)
        np.testing.assert_allclose(
            map_.flatten()[self[f"{key}_idx"]],
            self[f"{key}_val"],
            rtol=0,
            atol=(tolerance or VALUE_TOLERANCE[self.name]) * std,
        )

    def check_gradients(self, network: nn.Module, loss: torch.Tensor):
        """Compares the norms of the gradients of 20 parameters; no others are computed."""
        parameters = dict(network.named_parameters())
        keys = [key.removeprefix("module.") for key in self["grad_names"]]
        gradients = torch.autograd.grad(loss, [parameters[key] for key in keys])
        for key, gradient, norm in zip(keys, gradients, self["grad_norms"], strict=True):
            assert gradient.norm().item() == pytest.approx(norm, rel=1e-2), key


def set_momentum_(network, momentum):
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum


def best_scores(decoded, count=20):
    return decoded[:, :count, 4].numpy()


def check_decoding(golden, decoded, maps, no_border=False):
    """Compares decoded maps, and the same maps decoded with other settings."""
    np.testing.assert_allclose(best_scores(decoded), golden["decode_top"], atol=1e-4)
    settings = dict(detector_settings(golden), no_border=no_border)
    loose = decode_corners(maps, **{**settings, "ae_threshold": 10})
    np.testing.assert_allclose(best_scores(loose), golden["decode10_top"], atol=1e-4)
    twins = maps._replace(
        br_heatmap=maps.tl_heatmap, br_embedding=maps.tl_embedding, br_offset=maps.tl_offset
    )
    decoded = decode_corners(
        twins, top_k=100, ae_threshold=0.5, kernel=3, num_dets=1000, no_border=False
    )
    np.testing.assert_allclose(best_scores(decoded), golden["decode_self_top"][:, :, 4], atol=1e-4)
    for corner in ("tl", "br"):
        heatmap = getattr(maps, f"{corner}_heatmap").sigmoid()
        peaks = heatmap * (F.max_pool2d(heatmap, 3, 1, 1) == heatmap)
        np.testing.assert_allclose(
            peaks.flatten(1).topk(20).values, golden[f"top20_{corner}_heat"], atol=1e-4
        )


def detector_settings(golden):
    stored = json.loads(str(golden["decode_kw"]))
    return {"top_k": stored.pop("K"), **stored}


@pytest.mark.parametrize(
    "name", ["CornerNet_Squeeze", pytest.param("CornerNet", marks=pytest.mark.slow)]
)
def test_forward_loss_gradients_and_decoding(name):
    golden, detector = Golden(name), published_detector(name)
    load_formula_weights_(detector, name)
    network, images = detector.network, golden.images()
    set_momentum_(network, 1.0)
    outputs = network(images)
    assert len(outputs) == 2
    for stack, maps in enumerate(outputs):
        golden.compare(maps, "train", f"_{stack}")

    loss = sum(corner_losses(outputs, golden.targets()).values())
    assert loss.item() == pytest.approx(float(golden["loss"]), rel=1e-5)
    golden.check_gradients(network, loss)

    network.eval()
    with torch.no_grad():
        (maps,) = network(images)
    golden.compare(maps, "eval")
    check_decoding(golden, detector.decode([maps]), maps)


@pytest.mark.slow
def test_three_steps_of_adam():
    golden, detector = Golden("CornerNet_Squeeze"), published_detector("CornerNet_Squeeze")
    load_formula_weights_(detector, "CornerNet_Squeeze")
    images, targets = golden.images(), golden.targets()
    optimizer = torch.optim.Adam(detector.network.parameters(), lr=2.5e-4)
    tolerances = (1e-5, 1e-4, 1e-3)
    for expected, tolerance in zip(golden["adam_losses"][:3], tolerances, strict=True):
        loss = sum(detector.losses(detector.network(images), targets).values())
        assert loss.item() == pytest.approx(expected, rel=tolerance)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("name", ["CornerNet", "CornerNet_Squeeze"])
def test_targets_of_the_golden_boxes(name):
    golden, detector = Golden(name), published_detector(name)
    targets, expected = detector.targets(golden.batch()), golden.targets()
    torch.testing.assert_close(targets.tl_heatmap, expected.tl_heatmap, rtol=0, atol=1e-6)
    torch.testing.assert_close(targets.br_heatmap, expected.br_heatmap, rtol=0, atol=1e-6)
    objects = targets.mask.shape[1]
    for name in ("mask", "tl_index", "br_index"):
        assert torch.equal(getattr(targets, name), getattr(expected, name)[:, :objects])
    for name in ("tl_offset", "br_offset"):
        torch.testing.assert_close(
            getattr(targets, name), getattr(expected, name)[:, :objects], rtol=0, atol=2e-5
        )
