"""Tests of every model; a new one is tested by its entry in ``SMALL``."""

import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

import core
from core.checkpoint import snapshot as checkpoint
from core.checkpoint.run_directory import RunDirectory
from core.data.color import apply_color
from core.models import MODELS
from core.structures import collate
from tests.support.inference import detect
from tests.support.model_builders import (
    SMALL,
    formula,
    manifest,
    published_detector,
    small_config,
    small_detector,
)
from tests.support.model_losses import gradients, image_batch, losses, sides

NAMES = sorted(SMALL)
TRAINABLE = {
    "CornerNet": 201_035_212,
    "CornerNet_Squeeze": 31_771_852,
    "CornerNet_Saccade": 116_969_339,
    "CenterNet": 191_284_008,
    "CentripetalNet": 205_758_056,
    "FasterRCNN": 138_302_722,
    "CornerNet_Lite0": 4_213_496,
}
# Without published weights, or with those of its authors, which have other names: there is no
# manifest to compare with.
WITHOUT_MANIFEST = {"CentripetalNet", "CornerNet_Lite0"}
# Loss terms of two images, with weights of a formula; computed once, when the published networks
# had the golden losses.
PINNED = {
    "CenterNet": {"heatmap": 67.8411, "size": 1.09639, "offset": 0.892315},
    "CenterNet-resnet18": {"heatmap": 94.7209, "size": 1.25749, "offset": 0.995669},
    "CentripetalNet": {
        **{"heatmap": 190.902, "shift": 5.72808, "offset": 0.459779, "guiding": 0.98621},
    },
    "CornerNet": {"heatmap": 190.902, "pull": 0.069577, "push": 0.136961, "offset": 0.459779},
    "CornerNet_Saccade": {
        **{"heatmap": 190.902, "attention": 252.157, "pull": 0.069577, "push": 0.136961},
        "offset": 0.488503,
    },
    "CornerNet-centripetal": {
        "heatmap": 190.902,
        "shift": 3.85448,
        "offset": 4.34525,
        "box": 0.258981,
        "center": 0.343866,
    },
    "CornerNet_Saccade-centripetal": {
        **{
            "heatmap": 190.902,
            "attention": 252.157,
            "shift": 3.84271,
            "offset": 4.18063,
            "box": 0.256293,
            "center": 0.54246,
        },
    },
    "CornerNet_Squeeze": {"heatmap": 161.662, "pull": 0.15687, "push": 0.133495, "offset": 1.34252},
    "FasterRCNN": {
        **{"loss_objectness": 0.19464, "loss_rpn_box_reg": 2.76515},
        **{"loss_classifier": 4.07416, "loss_box_reg": 1.16278},
    },
    # Of networks that no reference has: computed once by this code, to notice a change.
    "CornerNet-lite": {
        **{"heatmap": 89.873, "pull": 0.135485, "push": 0.104474, "offset": 0.756563},
    },
    "CornerNet_Lite0": {
        **{"heatmap": 89.873, "shift": 3.31454, "offset": 4.20275, "box": 0.384263},
        "center": 1.62282,
    },
    "CornerNet-resnet18": {
        **{"heatmap": 367.001, "shift": 4.73875, "offset": 4.20087, "box": 0.258501},
        "center": 1.58521,
    },
    "CenterNet-lite": {"heatmap": 117.965, "size": 1.10251, "offset": 0.784705},
    "FasterRCNN-lite": {
        **{"loss_objectness": 0.606302, "loss_rpn_box_reg": 1.5298},
        **{"loss_classifier": 1.54472, "loss_box_reg": 0.0305519},
    },
    "FasterRCNN-resnet18": {
        **{"loss_objectness": 0.691978, "loss_rpn_box_reg": 1.28328},
        **{"loss_classifier": 1.47019, "loss_box_reg": 0.125296},
    },
}


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def test_every_model_is_in_the_lists_of_these_tests():
    assert set(MODELS) == set(TRAINABLE) <= set(SMALL) == set(PINNED)


@pytest.mark.parametrize("name", sorted(MODELS.keys() - WITHOUT_MANIFEST))
def test_state_dict_is_the_reference_s(name):
    network = published_detector(name).network
    entries = [[key, list(value.shape)] for key, value in network.state_dict().items()]
    assert entries == [[key.removeprefix("module."), shape] for key, shape in manifest(name)]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_number_of_parameters(name):
    network = published_detector(name).network
    assert sum(value.numel() for value in network.parameters()) == TRAINABLE[name]


@pytest.mark.parametrize("count", [1, 2])
def test_a_step_gives_every_parameter_a_gradient(name, count):
    detector = small_detector(name)
    terms = losses(detector, image_batch(name, count))
    for key, gradient in gradients(detector.network, terms).items():
        assert gradient is not None and gradient.isfinite().all(), key
        assert gradient.abs().max() > 0, key


def test_the_loss_is_a_pinned_number(name):
    """Weights and images come from NumPy; all regions are trained, so that none are drawn."""
    all_regions = (
        {"rpn_samples": 5000, "roi_samples": 5000} if name.startswith("FasterRCNN") else {}
    )
    detector = small_detector(name, model=all_regions)
    state = detector.network.state_dict()
    weights = {key: formula(key, tuple(value.shape)) for key, value in state.items()}
    detector.network.load_state_dict(weights)
    terms = losses(detector, image_batch(name, 2))
    assert {key: term.item() for key, term in terms.items()} == pytest.approx(
        PINNED[name], rel=1e-3
    )


def test_saved_and_loaded(name, tmp_path):
    detector, other = small_detector(name), small_detector(name, seed=1)
    losses(detector, image_batch(name, 2))  # moves the running statistics
    path = RunDirectory(tmp_path, name).snapshot(3)
    meta = checkpoint.Meta(name, 3, ("a", "b", "c"), small_config(name).as_dict(), {})
    checkpoint.save_snapshot(path, detector.network, None, meta)
    assert checkpoint.load_weights(other.network, path, other.class_head_keys) == []
    with torch.no_grad():
        own, loaded = (
            tree_leaves(network.eval()(image_batch(name, 1)))
            for network in (detector.network, other.network)
        )
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(own, loaded, strict=True))


def test_class_head_keys_are_the_entries_that_depend_on_the_class_count(name):
    three, five = (small_detector(name, count) for count in (3, 5))
    other = five.network.state_dict()
    differing = {
        key for key, value in three.network.state_dict().items() if value.shape != other[key].shape
    }
    assert three.class_head_keys == five.class_head_keys
    assert differing == {key for key in other if key.startswith(three.class_head_keys)}


def test_the_functions_of_a_detector_fit_each_other(name):
    """An image passes through sample, targets, network and losses, and through infer."""
    detector, (height, width) = small_detector(name, reference_scoring=False), sides(name)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2 * height, 2 * width, 3), dtype=np.uint8)
    boxes = np.array([[10, 12, 60, 50]], np.float32)
    sample = detector.sample(image, boxes, np.array([2]), None)
    assert sample.image.shape == (3, height, width)

    batch = collate([sample, sample], [0, 0])
    images, targets = apply_color(batch.images, batch.color), detector.targets(batch)
    for training in (False, True):
        network = detector.network.train(training)
        outputs = network(images, *detector.network_inputs(targets))
        terms = detector.losses(outputs, targets)
        assert all(term.shape == () and term.isfinite() for term in terms.values())

    detector.network.eval()
    predict = detector.predict(torch.device("cpu"))
    for size in ((2 * height, 2 * width), (1, 1), (3, 200), (90, 40)):
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        found = detect(detector, image, predict)
        assert (found.boxes[:, 2] >= found.boxes[:, 0]).all() and (found.labels < 3).all()
        assert np.isfinite(found.boxes).all()


def test_between_batches_and_the_network_is_nothing_but_predict(name):
    detector, calls = small_detector(name), []
    package = str(Path(core.__file__).parent)

    def note(module, inputs):
        stack = traceback.extract_stack()
        calls.append([frame.name for frame in stack if frame.filename.startswith(package)])

    detector.network.eval().register_forward_pre_hook(note)
    detect(detector, np.zeros((90, 120, 3), np.uint8), detector.predict(torch.device("cpu")))
    assert calls and all(call == ["__call__", "_results", "_launch", "run"] for call in calls)
