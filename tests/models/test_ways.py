"""Every model's network gives the same in batches, layouts, precisions, and at single cells."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from tests.support.model_builders import PYRAMIDS, SMALL, small_config, small_detector
from tests.support.model_losses import gradients, image_batch, losses

# One detector of each kind on each backbone; test_pyramid has the others.
NAMES = sorted(SMALL.keys() - {"CornerNet-lite", "CornerNet-resnet18", "FasterRCNN-lite"})
# Networks that make maps of images; their number of stacks, where it is not two.
MAPS = [name for name in NAMES if not name.startswith("FasterRCNN")]
STACKS = {"CenterNet-resnet18": 1, **dict.fromkeys(PYRAMIDS, 1)}


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture(params=MAPS)
def map_name(request):
    return request.param


def map_sizes(maps):
    """Heights and widths of the maps of a stack, those of attention among them."""
    return {tuple(map_.shape[2:]) for map_ in tree_leaves(maps)}


def test_training_gives_every_stack_and_evaluation_the_last(map_name):
    network = small_detector(map_name).network
    images, cells = image_batch(map_name, 2), small_config(map_name).db.output_size
    stacks = network(images)
    assert len(stacks) == STACKS.get(map_name, 2)
    for maps in stacks:
        assert map_sizes(maps) <= {cells, (cells[0] // 2, cells[1] // 2)}
        assert all(len(map_) == 2 for map_ in tree_leaves(maps))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    stacks = network(images)
    (last,) = network.eval()(images)
    for map_, expected in zip(tree_leaves(last), tree_leaves(stacks[-1]), strict=True):
        torch.testing.assert_close(map_, expected)


def test_a_batch_gives_what_its_images_give(name):
    network = small_detector(name).network.eval()
    images = image_batch(name, 3)
    with torch.no_grad():
        together, alone = network(images), [network(image[None]) for image in images]
    for row, expected in enumerate(alone):
        if name not in MAPS:
            found, expected = tree_leaves(together[row]), tree_leaves(expected)
        else:
            found, expected = (
                [map_[row : row + 1] for map_ in tree_leaves(together)],
                tree_leaves(expected),
            )
        assert all(len(value) for value in found)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_other_sizes_of_images(map_name):
    network = small_detector(map_name).network.eval()
    with torch.no_grad():
        (maps,) = network(torch.zeros(1, 3, 127, 255))
    assert map_sizes(maps) <= {(32, 64), (16, 32)}


@pytest.mark.parametrize("training", [False, True])
def test_inputs_are_left_as_they_are(name, training):
    detector = small_detector(name)
    images = image_batch(name, 2)
    kept = images.clone()
    if training:
        losses(detector, images)
    else:
        detector.network.eval()(images)
    assert torch.equal(images, kept)


def test_channels_last_gives_the_same(name):
    detector = small_detector(name)
    dtype = torch.float64 if name in MAPS else torch.float32  # the dtype of its regions
    images = image_batch(name, 2).to(dtype)
    other = copy.deepcopy(detector.network.to(dtype)).to(memory_format=torch.channels_last)
    expected = losses(detector, images)
    terms = losses(detector, images.to(memory_format=torch.channels_last), other)
    torch.testing.assert_close(terms, expected, rtol=1e-4, atol=1e-5)
    wanted = gradients(detector.network, expected)
    for key, value in gradients(other, terms).items():
        # Through a whole backbone in float32, inputs that differ by 1e-7 give gradients that differ
        # by 2 %; tests/models/test_pyramid.py compares these in float64.
        if name in MAPS or not key.startswith("backbone.") or name not in PYRAMIDS:
            assert (value - wanted[key]).norm() <= 1e-3 * wanted[key].norm() + 1e-6, key


@pytest.mark.parametrize(
    ("name", "training"),
    [*((name, True) for name in NAMES), ("FasterRCNN", False), ("FasterRCNN-resnet18", False)],
)
def test_bfloat16_autocast_is_near_float32(name, training):
    detector = small_detector(name)
    network = detector.network.train(training)
    images = image_batch(name, 2)
    expected = losses(detector, images)
    with torch.autocast("cpu", torch.bfloat16):
        terms = losses(detector, images)
        maps = tree_leaves(network(images)) if name in MAPS else []
    assert all(map_.dtype == torch.bfloat16 for map_ in maps)
    assert all(term.dtype == torch.float32 for term in terms.values())
    torch.testing.assert_close(terms, expected, rtol=0.1, atol=0.03)
    assert all(value.isfinite().all() for value in gradients(network, terms).values())


def test_vectors_at_cells_equal_those_of_whole_maps(map_name):
    """The terms of the loss, and the gradient of every parameter."""
    detector = small_detector(map_name)
    network = detector.network.double()
    images = image_batch(map_name, 2).double()
    results = []
    for cells in (True, False):
        terms = losses(detector, images, cells=cells)
        results.append((terms, gradients(network, terms)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-7)


def test_with_cells_only_heatmaps_are_whole_maps(map_name):
    """In training and in inference: maps that are read at objects are only computed there."""
    detector = replace(small_detector(map_name), losses=lambda outputs, targets: outputs)
    images = image_batch(map_name, 2)
    trained = losses(detector, images)
    with torch.no_grad():
        found = detector.network.eval()(images, **detector.decode_inputs)
    for maps in (*trained, *found):
        corners = getattr(maps, "corners", maps)
        for key, map_ in getattr(corners, "maps", corners)._asdict().items():
            assert map_.dim() == (4 if "heatmap" in key else 3), key


def test_decoding_reads_the_same_at_its_cells_as_in_whole_maps(map_name):
    detector = small_detector(map_name)
    network, images = detector.network.eval(), image_batch(map_name, 2)
    with torch.no_grad():
        whole, read = network(images), network(images, **detector.decode_inputs)
    torch.testing.assert_close(detector.decode(read), detector.decode(whole), rtol=1e-4, atol=1e-5)
