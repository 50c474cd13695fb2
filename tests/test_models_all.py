"""What holds for every model; one that is added is tested by its entry in ``MODELS``."""

import copy

import numpy as np
import pytest
import torch
from model_builders import (
    SMALL,
    manifest,
    published_detector,
    small_detector,
)
from torch import nn
from torch.utils._pytree import tree_leaves

from core.batch import collate
from core.models import MODELS
from core.targets.color import apply_color

NAMES = sorted(MODELS)
MAPS = [name for name in NAMES if name != "FasterRCNN"]  # that make maps of images and no more
TRAINABLE = {
    "CornerNet": 201_035_212,
    "CornerNet_Squeeze": 31_771_852,
    "CornerNet_Saccade": 116_969_339,
    "CenterNet": 191_284_008,
    "FasterRCNN": 138_302_722,
}


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture(params=MAPS)
def map_name(request):
    return request.param


def picture_batch(count, seed=0, height=63, width=47):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, height, width, generator=generator)


def outputs_in_training(detector, images):
    """What the network gives, with an object in every picture for one that asks for it."""
    picture, box = np.zeros((63, 47, 3), np.uint8), np.array([[5, 6, 40, 50]], np.float32)
    sample = detector.sample(picture, box, np.array([2]), None)
    targets = detector.targets(collate([sample] * len(images), [0] * len(images)))
    return detector.network(images, *detector.network_inputs(targets))


def flat(outputs):
    """The maps of all stacks, and of attention at all levels; or the losses."""
    return tree_leaves(outputs)


def level_sizes(height, width):
    """Sizes of the maps of an hourglass' levels."""
    return {(height, width), (height // 2, width // 2)}


def test_every_model_is_in_the_lists_of_these_tests(name):
    assert name in SMALL and name in TRAINABLE


def test_state_dict_is_the_reference_s(name):
    network = published_detector(name).network
    entries = [[key, list(value.shape)] for key, value in network.state_dict().items()]
    assert entries == [[key.removeprefix("module."), shape] for key, shape in manifest(name)]
    assert sum(value.numel() for value in network.parameters()) == TRAINABLE[name]


@pytest.mark.parametrize("count", [1, 2])
def test_a_step_gives_every_parameter_a_gradient(name, count):
    detector = small_detector(name)
    network, outputs = detector.network, outputs_in_training(detector, picture_batch(count))
    sum(map_.float().square().sum() for map_ in flat(outputs)).backward()
    for key, value in network.named_parameters():
        assert value.grad is not None and value.grad.isfinite().all(), key
        assert value.grad.abs().max() > 0, key


def test_training_gives_every_stack_and_evaluation_the_last(map_name):
    network = small_detector(map_name).network
    images = picture_batch(2)
    stacks = network(images)
    assert len(stacks) == 2
    for maps in stacks:
        assert {tuple(map_.shape[2:]) for map_ in flat(maps)} <= level_sizes(16, 12)
        assert all(len(map_) == 2 for map_ in flat(maps))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    stacks = network(images)
    (last,) = network.eval()(images)
    for map_, expected in zip(flat(last), flat(stacks[-1]), strict=True):
        torch.testing.assert_close(map_, expected)


def test_a_batch_is_its_pictures(map_name):
    network = small_detector(map_name).network.eval()
    images = picture_batch(3)
    with torch.no_grad():
        together = flat(network(images))
        alone = [flat(network(image[None])) for image in images]
    for map_, *parts in zip(together, *alone, strict=True):
        torch.testing.assert_close(map_, torch.cat(parts), rtol=1e-4, atol=1e-5)


def test_other_sizes_of_pictures(map_name):
    network = small_detector(map_name).network.eval()
    with torch.no_grad():
        (maps,) = network(picture_batch(1, height=127, width=255))
    assert {tuple(map_.shape[2:]) for map_ in flat(maps)} <= level_sizes(32, 64)


@pytest.mark.parametrize("training", [False, True])
def test_inputs_are_left_as_they_are(name, training):
    detector = small_detector(name)
    images = picture_batch(2)
    kept = images.clone()
    if training:
        outputs_in_training(detector, images)
    else:
        detector.network.eval()(images)
    assert torch.equal(images, kept)


def test_channels_last_gives_the_same(map_name):
    network = small_detector(map_name).network
    other = copy.deepcopy(network).to(memory_format=torch.channels_last)
    images = picture_batch(2)
    expected = flat(network(images))
    outputs = flat(other(images.to(memory_format=torch.channels_last)))
    for map_, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(map_, wanted, rtol=1e-3, atol=1e-3)
    for a in (expected, outputs):
        sum(map_.square().mean() for map_ in a).backward()
    gradients = dict(network.named_parameters())
    for key, value in other.named_parameters():
        wanted = gradients[key].grad
        assert (value.grad - wanted).norm() <= 1e-2 * wanted.norm() + 1e-5, key


def test_bfloat16_autocast_is_near_float32(map_name):
    network = small_detector(map_name).network
    images = picture_batch(2)
    expected = flat(network(images))
    with torch.autocast("cpu", torch.bfloat16):
        outputs = flat(network(images))
    for map_, wanted in zip(outputs, expected, strict=True):
        assert map_.dtype == torch.bfloat16
        assert (map_.float() - wanted).abs().mean() < 0.1 * wanted.std() + 0.02
    sum(map_.float().square().mean() for map_ in outputs).backward()
    assert all(value.grad.isfinite().all() for value in network.parameters())


def test_exports_without_breaks(map_name):
    network = small_detector(map_name).network.eval()
    images = picture_batch(1)
    program = torch.export.export(network, (images,))
    for map_, wanted in zip(flat(program.module()(images)), flat(network(images)), strict=True):
        torch.testing.assert_close(map_, wanted)


def test_what_is_read_at_cells_is_what_whole_maps_have(map_name):
    """The terms of the loss, and the gradient of every parameter."""
    detector = small_detector(map_name)
    network = detector.network.double().train()
    images = picture_batch(2).double()
    picture, boxes = np.zeros((63, 47, 3), np.uint8), [[5, 6, 40, 50], [0, 0, 46, 62]]
    objects = np.array(boxes, np.float32), np.array([2, 0])
    sample = detector.sample(picture, *objects, None)
    targets = detector.targets(collate([sample] * 2, [0, 1]))
    results = []
    for cells in (detector.network_inputs(targets), ()):
        network.zero_grad()
        terms = detector.losses(network(images, *cells), targets)
        torch.stack(list(terms.values())).sum().backward()
        gradients = {key: value.grad for key, value in network.named_parameters()}
        results.append((terms, gradients))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-7)


def test_decoding_reads_the_same_at_its_cells_as_in_whole_maps(map_name):
    detector = small_detector(map_name)
    network, images = detector.network.eval(), picture_batch(2)
    with torch.no_grad():
        whole, read = network(images), network(images, **detector.decode_inputs)
    torch.testing.assert_close(detector.decode(read), detector.decode(whole), rtol=1e-4, atol=1e-5)


def test_class_head_keys_are_the_entries_that_depend_on_the_class_count(name):
    three, five = (small_detector(name, count) for count in (3, 5))
    other = five.network.state_dict()
    differing = {
        key for key, value in three.network.state_dict().items() if value.shape != other[key].shape
    }
    assert three.class_head_keys == five.class_head_keys
    assert differing == {key for key in other if key.startswith(three.class_head_keys)}


def test_a_picture_goes_all_the_way(name):
    """Sample, targets, losses, decode and infer fit each other and the network."""
    detector = small_detector(name, reference_scoring=False)
    image = np.random.default_rng(0).integers(0, 256, (126, 94, 3), dtype=np.uint8)
    boxes = np.array([[10, 12, 60, 50]], np.float32)
    sample = detector.sample(image, boxes, np.array([2]), None)
    assert sample.image.shape == (3, 63, 47)

    batch = collate([sample, sample], [0, 0])
    images, targets = apply_color(batch.images, batch.color), detector.targets(batch)
    for training in (False, True):
        network = detector.network.train(training)
        outputs = network(images, *detector.network_inputs(targets))
        terms = detector.losses(outputs, targets)
        assert all(term.shape == () and term.isfinite() for term in terms.values())

    detector.network.eval()
    predict = detector.predict(torch.device("cpu"))
    with torch.no_grad():
        found = detector.infer(image, predict)
    assert (found.boxes[:, 2] >= found.boxes[:, 0]).all() and (found.labels < 3).all()
