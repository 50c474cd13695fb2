"""Training samples of CornerNet."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.data.color import NORMALIZE
from core.data.samples import CropSettings
from core.data.samples.corners import sample_corners

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "targets_cornernet.npz")
OPTIONS = CropSettings(
    input_size=(96, 128),
    scales=(0.6, 1.0, 1.3),
    border=64,
    crop=True,
    color=True,
    lighting=True,
)


def blocky_noise(seed: int, height: int, width: int) -> np.ndarray:
    """Makes the image that the golden files describe by a seed and a size."""
    cells = (-(-height // 8), -(-width // 8), 3)
    low = np.random.default_rng(seed).integers(0, 256, cells, dtype=np.int64)
    return low.repeat(8, 0).repeat(8, 1)[:height, :width].astype(np.uint8)


def sample(rng=None, boxes=None, **changes):
    boxes = np.array([[5, 6, 90, 70], [40, 30, 170, 110]]) if boxes is None else boxes
    labels = np.arange(len(boxes))
    image = blocky_noise(3, 120, 180)
    return sample_corners(image, boxes.astype(np.float32), labels, rng, replace(OPTIONS, **changes))


@pytest.mark.parametrize("number", range(4))
def test_without_augmentation_equals_the_reference(number):
    size = GOLDEN["sizes"][number].tolist()
    image = blocky_noise(int(GOLDEN["image_seeds"][number]), *size)
    boxes = GOLDEN[f"boxes_{number}"]
    result = sample_corners(
        image,
        boxes[:, :4],
        boxes[:, 4].astype(int) - 1,
        None,
        replace(OPTIONS, input_size=(511, 511)),
    )
    expected = GOLDEN["images_sub"][number]
    assert np.abs(result.image[:, ::37, ::41] - expected).max() <= 1
    assert len(result.boxes) == GOLDEN["cornernet_tag_mask"][number].sum()
    np.testing.assert_array_equal(result.color, NORMALIZE)


def test_a_sample_has_the_promised_types():
    result = sample(np.random.default_rng(0))
    assert result.image.shape == (3, 96, 128) and result.image.dtype == np.uint8
    assert result.boxes.dtype == np.float32 and result.labels.dtype == np.int64
    assert result.color.shape == (3, 4) and result.color.dtype == np.float32


def test_a_sample_depends_on_its_generator_alone():
    first, again = sample(np.random.default_rng(7)), sample(np.random.default_rng(7))
    other = sample(np.random.default_rng(8))
    for name in ("image", "boxes", "labels", "color"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert (first.image != other.image).any() and (first.color != other.color).any()


def test_global_random_state_is_not_touched():
    np.random.seed(3)  # noqa: NPY002 - the state that must stay as it is
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    sample(np.random.default_rng(0))
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_no_argument_is_changed():
    image, boxes = blocky_noise(3, 120, 180), np.array([[5, 6, 90, 70.0]], np.float32)
    for seed in range(4):
        sample_corners(image, boxes, np.array([1]), np.random.default_rng(seed), OPTIONS)
    np.testing.assert_array_equal(image, blocky_noise(3, 120, 180))
    np.testing.assert_array_equal(boxes, [[5, 6, 90, 70]])


def test_boxes_follow_their_object_through_every_augmentation():
    """Checks that a white rectangle on black fills its box after crop, resize and flip."""
    image = np.zeros((120, 180, 3), np.uint8)
    image[40:81, 60:131] = 255
    seen = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        box = np.array([[60, 40, 130, 80]], np.float32)
        result = sample_corners(image, box, np.array([0]), rng, OPTIONS)
        white = result.image[0] > 127
        if len(result.boxes) == 0:
            continue
        rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
        actual = [columns[0], rows[0], columns[-1], rows[-1]]
        np.testing.assert_allclose(result.boxes[0], actual, atol=2.5)
        seen.append(actual)
    assert len({tuple(box) for box in seen}) > 40


def test_about_half_of_the_samples_are_flipped():
    options = {"crop": False, "color": False}
    plain = sample(None, **options).image
    flipped = 0
    for seed in range(100):
        result = sample(np.random.default_rng(seed), **options)
        mirrored = (result.image == plain[:, :, ::-1]).all()
        assert mirrored or (result.image == plain).all()
        np.testing.assert_array_equal(result.color, NORMALIZE)
        flipped += mirrored
    assert 30 < flipped < 70


def test_boxes_are_clipped_and_empty_ones_dropped_with_their_labels():
    boxes = np.array([[-50, -9, 20, 30], [200, 10, 300, 50], [100, 20, 900, 900], [5, 5, 5, 40]])
    result = sample(None, boxes=boxes)
    assert result.labels.tolist() == [0, 2]
    assert (result.boxes >= 0).all()
    assert (result.boxes[:, 2] <= 127).all() and (result.boxes[:, 3] <= 95).all()


@pytest.mark.parametrize("seed", range(3))
def test_an_image_without_boxes_and_one_of_a_single_pixel(seed):
    rng = np.random.default_rng(seed)
    assert sample(rng, boxes=np.zeros((0, 4))).boxes.shape == (0, 4)
    pixel = np.full((1, 1, 3), 9, np.uint8)
    boxes, labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    assert sample_corners(pixel, boxes, labels, rng, OPTIONS).image.shape == (3, 96, 128)
