"""Training samples of whole images: sizes, boxes, flips."""

import numpy as np
import pytest

from core.data.color import NORMALIZE
from core.data.samples.whole import fitted_size, sample_whole

SIDES = {"shorter_side": 60, "longer_side": 100, "least_side": 16}


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (600, 800)),
        ((640, 480), (800, 600)),
        ((300, 300), (600, 600)),
        ((300, 900), (333, 1000)),  # the longer side decides
        ((900, 300), (1000, 333)),
        ((1, 1), (600, 600)),
        ((2, 4000), (16, 1000)),  # stretched
        ((600, 1000), (600, 1000)),
    ],
)
def test_fitted_size(size, expected):
    assert fitted_size(size, 600, 1000, 16) == expected


def image_with_box(height=45, width=60):
    """Makes an image of a bright rectangle, its box, and a label."""
    image = np.zeros((height, width, 3), np.uint8)
    image[10:30, 6:21] = 255
    return image, np.array([[6, 10, 21, 30]], np.float32), np.array([2])


class Rng:
    """Stands in for a generator: flips every image, or none."""

    def __init__(self, flipped):
        self.flipped = flipped

    def random(self):
        return 0.25 if self.flipped else 0.75


@pytest.mark.parametrize("flipped", [False, True])
def test_boxes_stay_on_the_edges_of_their_objects(flipped):
    """Checks that the pixels of an object at double size fill its box exactly."""
    image, boxes, labels = image_with_box()
    settings = {"shorter_side": 90, "longer_side": 120, "least_side": 16}
    sample = sample_whole(
        image, boxes, labels, Rng(flipped), **settings, color=False, lighting=False
    )
    assert sample.image.shape == (3, 90, 120)
    rows, columns = np.nonzero(sample.image[0] > 127)
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(sample.boxes, [seen])
    assert seen == ([78, 20, 108, 60] if flipped else [12, 20, 42, 60])


def test_validation_is_not_changed():
    image, boxes, labels = image_with_box(60, 100)
    kept = image.copy(), boxes.copy()
    sample = sample_whole(image, boxes, labels, None, **SIDES, color=True, lighting=True)
    np.testing.assert_array_equal(sample.image.transpose(1, 2, 0), image)
    np.testing.assert_array_equal(sample.boxes, boxes)
    np.testing.assert_array_equal(sample.color, NORMALIZE)
    np.testing.assert_array_equal(image, kept[0])
    np.testing.assert_array_equal(boxes, kept[1])


def test_boxes_are_clipped_to_the_image_s_edges():
    image = np.zeros((60, 100, 3), np.uint8)
    boxes = np.array([[-5, 3, 20, 70], [90, 50, 100, 60], [100, 0, 120, 20]], np.float32)
    sample = sample_whole(image, boxes, np.arange(3), None, **SIDES, color=True, lighting=True)
    np.testing.assert_allclose(sample.boxes, [[0, 3, 20, 60], [90, 50, 100, 60]])
    assert sample.labels.tolist() == [0, 1]


def test_a_sample_is_a_function_of_its_generator():
    image, boxes, labels = image_with_box()
    first, second, other = (
        sample_whole(
            image, boxes, labels, np.random.default_rng(seed), **SIDES, color=True, lighting=True
        )
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.color, second.color)
    assert (first.color != other.color).any()
    assert first.boxes.dtype == np.float32 and first.labels.dtype == np.int64


def test_an_image_without_objects():
    image = np.zeros((30, 40, 3), np.uint8)
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    sample = sample_whole(image, *nothing, None, **SIDES, color=True, lighting=True)
    assert sample.boxes.shape == (0, 4) and sample.image.shape == (3, 60, 80)
