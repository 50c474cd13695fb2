"""Crop, resize, clip and flip, on images and boxes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from core.data import transforms

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "augment.npz")
IMAGE, BOXES = GOLDEN["image"], GOLDEN["boxes"][:, :4]


@pytest.mark.parametrize("border", [64, 128])
def test_border_equals_the_reference(border):
    borders = [transforms.crop_border(border, int(side)) for side in GOLDEN["border_sizes"]]
    assert borders == GOLDEN[f"get_border_{border}"].tolist()


@pytest.mark.parametrize("case", range(len(GOLDEN["crop_cases"])))
def test_crop_equals_the_reference(case):
    view_h, view_w, scale, x, y = GOLDEN["crop_cases"][case]
    image, boxes = IMAGE.copy(), BOXES.copy()
    cropped, moved = transforms.crop(
        image, boxes, (int(view_h * scale), int(view_w * scale)), (int(y), int(x))
    )
    np.testing.assert_array_equal(cropped, GOLDEN[f"crop{case}_image"])
    np.testing.assert_array_equal(moved, GOLDEN[f"crop{case}_boxes"][:, :4])
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(boxes, BOXES)


@pytest.mark.parametrize("case", range(len(GOLDEN["resize_sizes"])))
def test_resize_clip_and_flip_equal_the_reference(case):
    size = tuple(GOLDEN["resize_sizes"][case].tolist())
    image, boxes = transforms.resize(IMAGE, BOXES, size)
    assert np.abs(image.astype(int) - GOLDEN[f"resize{case}_image"]).max() <= 1
    np.testing.assert_allclose(boxes, GOLDEN[f"resize{case}_boxes"][:, :4], atol=1e-4)

    clipped = transforms.clip_boxes(boxes, size)
    np.testing.assert_allclose(clipped, GOLDEN[f"resize{case}_clipped"][:, :4], atol=1e-4)

    image = GOLDEN[f"resize{case}_image"]
    flipped_image, flipped = transforms.flip(image, clipped)
    np.testing.assert_array_equal(flipped_image, GOLDEN[f"resize{case}_flipped_image"])
    np.testing.assert_allclose(flipped, GOLDEN[f"resize{case}_flipped_boxes"][:, :4], atol=1e-4)


def test_flipping_twice_changes_nothing():
    image, boxes = transforms.flip(*transforms.flip(IMAGE, np.round(BOXES)))
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(boxes, np.round(BOXES))


def test_has_area_is_false_for_flat_boxes():
    boxes = np.array([[0, 0, 2, 2], [1, 1, 1, 5], [1, 5, 4, 5], [3, 3, 2, 2]], np.float32)
    assert transforms.has_area(boxes).tolist() == [True, False, False, False]


@pytest.mark.parametrize("size", [(480, 640), (1, 1), (3, 2000)])
def test_drawn_crops_keep_to_the_scales_and_borders(size):
    rng = np.random.default_rng(0)
    draws = [transforms.draw_crop(size, (511, 255), (0.6, 1.3), 128, rng) for _ in range(300)]
    assert {window for window, _ in draws} == {(306, 153), (664, 331)}
    for axis, side in enumerate(size):
        border = transforms.crop_border(128, side)
        centers = {center[axis] for _, center in draws}
        assert min(centers) >= border and max(centers) < side - border
        assert len(centers) > min(50, (side - 2 * border) // 2)


def test_a_crop_far_larger_than_the_image_is_mostly_black():
    image = np.full((3, 5, 3), 255, np.uint8)
    window, boxes = transforms.crop(image, np.array([[0, 0, 5, 3]], np.float32), (20, 31), (1, 2))
    assert window.shape == (20, 31, 3)
    x0, y0, x1, y1 = boxes[0].astype(int)
    assert (window[y0:y1, x0:x1] == 255).all()
    assert (window > 0).sum() == image.size


@pytest.mark.parametrize(("source", "target"), [(7, 7), (5, 23), (23, 5), (1, 4), (4, 1), (9, 10)])
def test_linear_taps_equal_interpolate(source, target):
    line = np.random.default_rng(source).random(source)
    first, second, weight = transforms.linear_taps(np.arange(target), source, target)
    assert first.dtype == second.dtype == np.int64 and weight.dtype == np.float32
    expected = F.interpolate(torch.from_numpy(line)[None, None], size=target, mode="linear")[0, 0]
    np.testing.assert_allclose(
        (1 - weight) * line[first] + weight * line[second], expected, atol=1e-6
    )


def test_linear_taps_of_many_lengths_and_outside_positions():
    source, target = np.array([[3], [8]]), np.array([[6], [4]])
    first, second, weight = transforms.linear_taps(np.arange(-2, 9), source, target)
    for row in range(2):
        inside = np.clip(np.arange(-2, 9), 0, target[row, 0] - 1)
        expected = transforms.linear_taps(inside, int(source[row, 0]), int(target[row, 0]))
        outside = (np.arange(-2, 9) < 0) | (np.arange(-2, 9) >= target[row, 0])
        for got, wanted in zip((first, second, weight), expected, strict=True):
            np.testing.assert_array_equal(got[row][~outside], wanted[~outside])
        assert (first[row] >= 0).all() and (second[row] < source[row]).all()
