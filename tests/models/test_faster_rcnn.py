"""The complete Faster R-CNN: compared with torchvision's, its losses, its image sizes."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import vgg16
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN

from core import models
from core.config.loading import config_from_dict, load_config
from core.data.color import apply_color
from core.layers.anchors import AnchorGrid
from core.layers.vgg import vgg_features
from core.models.faster_rcnn import Architecture
from core.structures import collate
from tests.support.inference import detect
from tests.support.model_builders import small_config, small_detector

NAME = "FasterRCNN"
TERMS = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}


def batch_of(detector, *objects, size=(63, 47), augmented=False):
    """A batch of noise images of ``size`` with the given objects, as from the loader."""
    rng = np.random.default_rng(len(objects))
    samples = [
        detector.sample(
            rng.integers(0, 256, (*size, 3), np.uint8),
            np.array(boxes, np.float32).reshape(-1, 4),
            np.arange(len(boxes)) % 3,
            rng if augmented else None,
        )
        for boxes in objects
    ]
    return collate(samples, list(range(len(objects))))


def losses(detector, batch):
    targets = detector.targets(batch)
    images = apply_color(batch.images, batch.color)
    terms = detector.losses(detector.network(images, *detector.network_inputs(targets)), targets)
    assert set(terms) == TERMS
    return {name: term.item() for name, term in terms.items()}


def images_of(count, height=63, width=47, seed=0):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def test_torchvision_s_network_around_the_same_parts_finds_the_same():
    """Its keys are ours; it too suppresses by class, keeps the best and clips to the image."""
    ours = small_detector(NAME).network.eval()
    a = Architecture(**{k: v for k, v in small_config(NAME).model.items()})
    grid = AnchorGrid(a.stride, a.anchor_scales, a.anchor_ratios)
    backbone = vgg_features(a.channels, a.batch_norm)
    backbone.out_channels = a.channels[-1][-1]
    theirs = TorchvisionFasterRCNN(
        backbone,
        box_head=ours.roi_heads.box_head,
        box_predictor=ours.roi_heads.box_predictor,
        rpn_anchor_generator=grid,
        rpn_pre_nms_top_n_test=a.test_pre_nms,
        rpn_post_nms_top_n_test=a.test_post_nms,
        box_roi_pool=ours.roi_heads.box_roi_pool,
        box_score_thresh=a.min_score,
        image_mean=[0, 0, 0],
        image_std=[1, 1, 1],
        min_size=64,
        max_size=64,
    ).eval()
    theirs.rpn.min_size = a.rpn_min_size
    theirs.load_state_dict(ours.state_dict())
    images = images_of(2, 64, 64)
    with torch.no_grad():
        found, expected = ours(images), theirs(list(images))
    for mine, other in zip(found, expected, strict=True):
        assert len(other["boxes"]) > 5
        for key, value in other.items():
            torch.testing.assert_close(mine[key], value)


def test_vgg_features_are_torchvision_s():
    with torch.device("meta"):
        expected = vgg16().features[:-1].state_dict()
        own = models.build(config_from_dict({}, NAME, "x.json"), 80).network.backbone.state_dict()
    assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in expected.items()}


def test_the_published_network():
    config = load_config(NAME)
    with torch.device("meta"):
        network = models.build(config, 20).network
        features = network.backbone(torch.zeros(1, 3, 800, 800))
    assert features.shape == (1, 512, 50, 50)
    assert network.roi_heads.box_head.fc6.weight.shape == (4096, 25088)
    assert network.roi_heads.box_predictor.cls_score.weight.shape == (21, 4096)
    assert network.roi_heads.box_predictor.bbox_pred.weight.shape == (84, 4096)


@pytest.mark.parametrize(
    "objects",
    [
        [[]],
        [[], []],
        [[[5, 6, 30, 40]]],
        [[[5, 6, 30, 40], [0, 0, 1, 1], [20, 20, 46, 60]], []],
        [[[0, 0, 47, 63]]],
    ],
)
def test_losses_are_finite_whatever_is_in_the_images(objects):
    detector = small_detector(NAME)
    batch = batch_of(detector, *objects)
    for training in (True, False):
        detector.network.train(training)
        terms = losses(detector, batch)
        assert all(np.isfinite(list(terms.values()))), terms
        if not any(objects):
            assert terms["loss_rpn_box_reg"] == terms["loss_box_reg"] == 0


@pytest.mark.parametrize("objects", [[[]], [[], [[2, 2, 300, 9]]]])
def test_narrow_images_without_a_proposal_left(objects):
    detector = small_detector(NAME, model={"rpn_min_size": 40.0})
    batch = batch_of(detector, *objects, size=(11, 400))
    assert batch.images.shape[2] == 4  # a cell
    assert all(np.isfinite(list(losses(detector, batch).values())))


def test_validation_loss_repeats_and_leaves_the_random_numbers_alone():
    detector = small_detector(NAME, model={"rpn_samples": 8, "roi_samples": 8})
    batch = batch_of(detector, [[5, 6, 30, 40]], [[10, 3, 40, 30]])
    detector.network.eval()
    state = torch.get_rng_state()
    first = losses(detector, batch)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert losses(detector, batch) == first
    assert not any(module.training for module in detector.network.modules())
    detector.network.train()
    trained = losses(detector, batch)
    torch.manual_seed(6)
    assert losses(detector, batch) != trained  # other samples


def test_a_validation_that_fails_leaves_evaluation_mode_behind():
    network = small_detector(NAME).network.eval()
    with pytest.raises(KeyError):
        network(images_of(1), [{"size": (63, 47)}])
    assert not any(module.training for module in network.modules())


def test_padding_of_the_batch_does_not_change_an_image_s_loss():
    """An image alone, and padded to the size of a larger one."""
    detector = small_detector(NAME)
    detector.network.eval()
    small = batch_of(detector, [[5, 6, 30, 40]], size=(63, 47))
    sample = detector.sample(np.zeros((47, 63, 3), np.uint8), np.zeros((0, 4)), np.zeros(0), None)
    targets = detector.targets(small)
    wide = nn.functional.pad(apply_color(small.images, small.color), (0, 40, 0, 20), value=9.0)
    alone = losses(detector, small)
    padded = detector.network(wide, *detector.network_inputs(targets))
    assert {name: term.item() for name, term in padded.items()} == alone
    assert sample.image.shape[1:] == (47, 63)


def test_images_of_two_sizes_in_one_batch():
    detector = small_detector(NAME)
    rng = np.random.default_rng(0)
    samples = [
        detector.sample(
            rng.integers(0, 256, (*size, 3), np.uint8),
            np.array([[2, 3, 30, 35]], np.float32),
            np.array([1]),
            rng,
        )
        for size in ((40, 50), (70, 40))
    ]
    batch = collate(samples, [0, 1])
    targets = detector.targets(batch)
    assert [target["size"] for target in targets] == [tuple(s.image.shape[1:]) for s in samples]
    assert targets[0]["labels"].tolist() == [2] and targets[0]["boxes"].shape == (1, 4)
    terms = losses(detector, batch)
    assert all(np.isfinite(list(terms.values())))
    assert detector.targets(batch[1:])[0]["size"] == targets[1]["size"]


def test_images_of_two_sizes_are_padded_with_the_mean_colour():
    """As torchvision pads: the network sees each image as if alone, with 0 beside it."""
    detector, rng, seen = small_detector(NAME), np.random.default_rng(0), []
    detector.network.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    objects = np.array([[2, 3, 30, 35]], np.float32), np.array([1])
    samples = [
        detector.sample(rng.integers(0, 256, (*size, 3), np.uint8), *objects, rng)
        for size in ((40, 60), (60, 40))
    ]
    for group in (samples[:1], samples[1:], samples):
        losses(detector, collate(group, [0] * len(group)))
    for alone, together in zip(seen[:2], seen[2], strict=True):
        height, width = alone.shape[2:]
        assert (height, width) != together.shape[1:]
        expected = torch.zeros_like(together)
        expected[:, :height, :width] = alone[0]
        assert torch.equal(together, expected)


def test_detections_are_in_pixels_of_the_image():
    """A detector that finds the whole image, whatever size that was scaled to."""
    detector = small_detector(NAME)

    def predict(images):
        height, width = images.shape[2:]
        assert min(height, width) == 47 or max(height, width) == 63
        rows = [[-3, 0, width, height, 0.9, 2], [0, 0, width / 2, height / 2, 0.5, 0]]
        return [torch.tensor(rows)]

    for height, width in ((60, 200), (300, 280), (47, 63)):
        found = detect(detector, np.zeros((height, width, 3), np.uint8), predict)
        expected = [[0, 0, width, height], [0, 0, width / 2, height / 2]]
        np.testing.assert_allclose(found.boxes, expected, rtol=1e-5)
        assert found.labels.tolist() == [2, 0] and found.labels.dtype == np.int64
        assert found.boxes.dtype == found.scores.dtype == np.float32


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 2), (63, 47)])
def test_images_of_any_size(size):
    detector = small_detector(NAME)
    detector.network.eval()
    predict = detector.predict(torch.device("cpu"))
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    found = detect(detector, image, predict)
    assert (found.boxes >= 0).all() and (found.boxes <= [size[1], size[0]] * 2).all()
    assert (np.diff(found.scores) <= 0).all() and set(found.labels) <= {0, 1, 2}


def test_training_without_targets_fails_an_assertion():
    with pytest.raises(AssertionError, match="targets"):
        small_detector(NAME).network(images_of(1))
