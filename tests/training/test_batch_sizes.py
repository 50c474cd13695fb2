"""Batches of images of different sizes: padded to the largest, with each image's own size."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from core.data.loader import TrainingImages, batch_loader
from core.structures import Sample, collate

SIZES = [(5, 7), (8, 4), (6, 9), (3, 3)]


def sample_of(size, value=7):
    image = np.full((3, *size), value, np.uint8)
    color = np.zeros((3, 4), np.float32)
    return Sample(image, np.ones((1, 4), np.float32), np.zeros(1, np.int64), color)


def as_it_is(image, boxes, labels, rng):
    """A sample function that keeps an image's size; picklable."""
    return Sample(
        np.ascontiguousarray(image.transpose(2, 0, 1)), boxes, labels, np.zeros((3, 4), np.float32)
    )


def check_padding(batch, sizes):
    assert batch.sizes.tolist() == [list(size) for size in sizes]
    assert batch.images.shape[2:] == tuple(np.max(sizes, 0))
    for image, (height, width) in zip(batch.images, sizes, strict=True):
        assert (image[:, :height, :width] > 0).all()
        assert image[:, height:].sum() == 0 and image[:, :, width:].sum() == 0


def test_images_of_one_size_need_no_sizes():
    batch = collate([sample_of((5, 7)), sample_of((5, 7))], [0, 1])
    assert batch.sizes is None and batch.images.shape == (2, 3, 5, 7)
    assert batch[:1].sizes is None


def test_smaller_images_lie_at_the_top_left():
    batch = collate([sample_of(size) for size in SIZES], [0, 1, 2, 3])
    check_padding(batch, SIZES)
    assert batch[1:3].sizes.tolist() == [[8, 4], [6, 9]]
    assert batch.to("cpu").sizes.tolist() == batch.sizes.tolist()


@dataclass
class Images:
    """A dataset of bright noise, one file of each of ``SIZES``."""

    folder: Path

    def __post_init__(self):
        rng = np.random.default_rng(0)
        for number, size in enumerate(SIZES):
            noise = rng.integers(1, 256, (*size, 3), np.uint8)
            cv2.imwrite(str(self.image_path(number)), noise)

    def __len__(self):
        return len(SIZES)

    def image_path(self, index):
        return self.folder / f"{index}.png"

    def boxes(self, index):
        return np.ones((index, 4), np.float32)

    def labels(self, index):
        return np.zeros(index, np.int64)


def test_a_batch_grows_as_larger_images_come(tmp_path):
    dataset = Images(tmp_path)
    batch = TrainingImages(dataset, as_it_is).__getitems__([(0, n) for n in range(4)])
    check_padding(batch, SIZES)
    for number, (height, width) in enumerate(SIZES):
        expected = cv2.imread(str(dataset.image_path(number))).transpose(2, 0, 1)
        np.testing.assert_array_equal(batch.images[number, :, :height, :width], expected)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_same_from_a_worker(tmp_path, batch_size):
    """The worker puts the images into shared memory."""
    settings = {"batch_size": batch_size, "seed": 3, "prefetch": 1}
    dataset = Images(tmp_path)
    here, there = (
        iter(batch_loader(dataset, as_it_is, workers=workers, **settings)) for workers in (0, 1)
    )
    for _ in range(5):
        expected, batch = next(here), next(there)
        assert torch.equal(batch.images, expected.images)
        if batch_size == 1:
            assert batch.sizes is None
        else:
            assert torch.equal(batch.sizes, expected.sizes)
