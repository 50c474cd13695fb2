"""Training samples of CenterNet, and the warp that makes them."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from core.data import transforms
from core.data.color import NORMALIZE
from core.data.samples import CropSettings
from core.data.samples.centers import sample_centers, warp, warp_boxes, whole_window
from tests.support.centers_golden import blocky_noise

OPTIONS = CropSettings(
    input_size=(96, 128),
    scales=(0.6, 1.0, 1.3),
    border=64,
    crop=True,
    color=True,
    lighting=True,
)
BOXES = np.array([[5, 6, 90, 70], [40, 30, 170, 110]], np.float32)


def sample(rng=None, boxes=BOXES, **changes):
    image = blocky_noise(3, 120, 180)
    return sample_centers(image, boxes, np.arange(len(boxes)), rng, replace(OPTIONS, **changes))


def marked(height, width, box):
    """Makes a black image with a white box."""
    image = np.zeros((height, width, 3), np.uint8)
    x0, y0, x1, y1 = box
    image[y0:y1, x0:x1] = 255
    return image


def test_without_augmentation_the_whole_image_is_in_the_middle():
    result = sample()
    # 180 pixels become 128: 120 become 85.3, between bars of 5.3.
    zoom = 128 / 180
    expected = BOXES * zoom + np.float32([0, (96 - 120 * zoom) / 2] * 2)
    np.testing.assert_allclose(result.boxes, expected, atol=1e-3)
    assert result.image.shape == (3, 96, 128) and result.image.dtype == np.uint8
    assert not result.image[:, :4].any() and not result.image[:, 93:].any()
    assert result.image[:, 8:88].any(axis=(0, 2)).all()
    np.testing.assert_array_equal(result.color, NORMALIZE)
    assert result.labels.tolist() == [0, 1] and result.labels.dtype == np.int64


def test_an_image_of_the_input_s_size_is_not_changed():
    image = blocky_noise(4, 127, 127)
    result = sample_centers(
        image, BOXES, np.arange(2), None, replace(OPTIONS, input_size=(127, 127))
    )
    np.testing.assert_array_equal(result.image, image.transpose(2, 0, 1))
    np.testing.assert_array_equal(result.boxes, BOXES)


@pytest.mark.parametrize("seed", range(8))
def test_boxes_go_with_the_pixels(seed):
    box = np.array([[60, 40, 120, 90]], np.float32)
    image = marked(120, 180, box[0].astype(int))
    result = sample_centers(
        image, box, np.zeros(1, int), np.random.default_rng(seed), replace(OPTIONS, color=False)
    )
    seen = result.image[0] > 127
    assert len(result.boxes) == int(seen.any())
    for drawn in transforms.clip_boxes(result.boxes, (96, 128)):
        rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        actual = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(actual, drawn, atol=1.6)


def test_boxes_that_lie_outside_are_dropped_and_others_not_clipped():
    boxes = np.array(
        [[-50, -50, -10, -10], [-20, 10, 60, 50], [30, 30, 30, 60], [0, 500, 9, 600]], np.float32
    )
    result = sample(boxes=boxes)
    assert result.labels.tolist() == [1]
    assert result.boxes[0, 0] < 0


def test_no_boxes():
    result = sample(np.random.default_rng(0), np.zeros((0, 4), np.float32))
    assert result.boxes.shape == (0, 4) and result.boxes.dtype == np.float32


def test_a_sample_depends_on_its_generator_alone_and_changes_no_input():
    image, boxes = blocky_noise(3, 120, 180), BOXES.copy()
    kept = image.copy()
    results = [
        sample_centers(image, boxes, np.arange(2), np.random.default_rng(5), OPTIONS)
        for _ in range(2)
    ]
    np.testing.assert_array_equal(results[0].image, results[1].image)
    np.testing.assert_array_equal(results[0].boxes, results[1].boxes)
    np.testing.assert_array_equal(results[0].color, results[1].color)
    np.testing.assert_array_equal(image, kept)
    np.testing.assert_array_equal(boxes, BOXES)
    assert not np.array_equal(results[0].image, sample(np.random.default_rng(6)).image)


def test_without_crop_the_whole_image_is_flipped_at_most():
    plain = sample().image
    for seed in range(6):
        image = sample(np.random.default_rng(seed), crop=False).image
        assert np.array_equal(image, plain) or np.array_equal(image, plain[:, :, ::-1])


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (1, 40)])
@pytest.mark.parametrize("scale", [0.3, 0.6, 1.3])
def test_images_one_pixel_wide(size, scale):
    image, boxes = np.full((*size, 3), 200, np.uint8), np.array([[0, 0, size[1], size[0]]])
    settings = replace(OPTIONS, scales=(scale,))
    result = sample_centers(image, boxes, np.arange(1), np.random.default_rng(0), settings)
    assert result.image.shape == (3, 96, 128)
    assert np.isfinite(result.boxes).all()


def test_scales_zoom():
    areas = []
    for scale in (0.6, 1.0, 1.3):
        result = sample(np.random.default_rng(1), scales=(scale,), boxes=BOXES[:1])
        size = result.boxes[0, 2:] - result.boxes[0, :2]
        areas.append(float(size.prod()))
    assert areas[0] == pytest.approx(areas[1] / 0.36, rel=0.02)
    assert areas[2] == pytest.approx(areas[1] / 1.69, rel=0.02)


def test_warp_shows_the_points_of_its_docstring():
    image = cv2.resize(blocky_noise(7, 10, 12), (120, 100), interpolation=cv2.INTER_CUBIC)
    center, zoom, size = (41.5, 60.25), 0.8, (64, 72)
    result = warp(image, center, zoom, size)
    v, u = np.mgrid[: size[0], : size[1]]
    x = ((u - size[1] / 2) / zoom + center[1]).astype(np.float32)
    y = ((v - size[0] / 2) / zoom + center[0]).astype(np.float32)
    expected = cv2.remap(image, x, y, cv2.INTER_LINEAR)
    inside = (x > 0) & (x < 119) & (y > 0) & (y < 99)
    assert inside.sum() > 3000
    difference = np.abs(result.astype(int) - expected)[inside]
    assert difference.max() <= 4 and difference.mean() < 0.5
    corner = warp_boxes(np.array([[60.25, 41.5, 61.5, 44]]), center, zoom, size)
    np.testing.assert_allclose(corner, [[36, 32, 37, 34]])


@pytest.mark.parametrize(
    ("size", "input_size", "window"),
    [
        ((480, 640), (512, 512), (640, 640)),
        ((97, 90), (512, 512), (97, 97)),
        ((100, 100), (64, 128), (100, 200)),
        ((1, 1), (64, 128), (1, 2)),
    ],
)
def test_whole_window(size, input_size, window):
    assert whole_window(size, input_size) == window
