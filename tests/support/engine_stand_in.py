"""A detector of a few hundred weights, and batches for it, to test the training loop alone."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from core.config.loading import System
from core.models.detector import Detector
from core.structures import Batch, Sample, collate

SIDE = 8


class StandInNetwork(nn.Module):
    """One convolution, a batch norm whose statistics matter, one output channel."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.heads = nn.ModuleList([nn.Conv2d(4, 1, 1)])

    def forward(self, images):
        return [self.heads[0](self.body(images))]


def stand_in(seed: int = 0) -> Detector:
    """The detector: a "map" term, quadratic in the picture's sum, and an "offset" term."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = StandInNetwork()
    return Detector(
        network=network,
        sample=make_sample,
        targets=lambda batch: batch.boxes.mean(),
        losses=lambda outputs, target: {
            "map": (outputs[0].float() - target).square().mean(),
            "offset": 0.1 * outputs[0].float().abs().sum(),  # not a mean: chunks count
        },
        decode=lambda outputs: outputs[0],
        infer=lambda image, predict: None,
        class_head_keys=("heads.0.",),
    )


def make_sample(image, boxes, labels, rng) -> Sample:
    """Noise of the generator as a picture with one box."""
    rng = np.random.default_rng(0) if rng is None else rng
    color = np.concatenate([np.eye(3) / 255, np.zeros((3, 1))], axis=1)
    return Sample(
        image=rng.integers(0, 256, (3, SIDE, SIDE), np.uint8),
        boxes=rng.random((1, 4), np.float32),
        labels=np.zeros(1, np.int64),
        color=color.astype(np.float32),
    )


def make_batch(number: int, size: int = 4, unreadable: tuple[int, ...] = ()) -> Batch:
    """Batch ``number`` of a stream."""
    samples = [
        make_sample(None, None, None, np.random.default_rng((number, row))) for row in range(size)
    ]
    return collate(samples, list(range(size)), list(unreadable))


def stream(start: int = 0, size: int = 4):
    """Batches ``start``, ``start + 1``, … without end."""
    while True:
        yield make_batch(start, size)
        start += 1


class StandInPictures:
    """A dataset of 1000 pictures, as far as they are counted and named."""

    annotation_file = Path("annotations.json")

    def __len__(self) -> int:
        return 1000

    def image_path(self, index: int) -> Path:
        return Path(f"pictures/{index:04d}.jpg")


def system(**settings) -> System:
    """Settings of a short run."""
    short = {"batch_size": 4, "max_iter": 6, "snapshot": 100, "val_iter": 0, "display": 1}
    return System(**{**short, "learning_rate": 0.01, "stepsize": 4, **settings})
