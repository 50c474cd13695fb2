"""Losses of the small detectors of the tests, and their gradients."""

import numpy as np
import torch

from core.structures import collate
from tests.support.model_builders import small_config


def sides(name):
    """Height and width of the images of a small network."""
    return (63, 47) if name.startswith("FasterRCNN") else small_config(name).db.input_size


def image_batch(name, count):
    images = np.random.default_rng(0).standard_normal((count, 3, *sides(name)), np.float32)
    return torch.from_numpy(images)


def losses(detector, images, network=None, cells=True):
    """Terms of the loss, with two objects in every image.

    Args:
        detector: whose functions are around the network.
        images: normalised.
        network: in place of the detector's own.
        cells: whether the network takes its inputs from the targets.
    """
    image = np.zeros((*images.shape[2:], 3), np.uint8)
    boxes = np.array([[5, 6, 40, 50], [0, 0, 46, 62]], np.float32)
    sample = detector.sample(image, boxes, np.array([2, 0]), None)
    targets = detector.targets(collate([sample] * len(images), [0] * len(images)))
    torch.manual_seed(0)  # Faster R-CNN draws regions
    inputs = detector.network_inputs(targets) if cells else ()
    return detector.losses((network or detector.network)(images, *inputs), targets)


def gradients(network, terms):
    """Of every parameter by its key, of the terms' sum."""
    network.zero_grad()
    torch.stack(list(terms.values())).sum().backward()
    return {key: value.grad for key, value in network.named_parameters()}
