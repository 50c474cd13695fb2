"""Training samples of CornerNet-Saccade: the reference's numbers, and images of odd sizes."""

import pickle
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest

from core.data import transforms
from core.data.color import NORMALIZE
from core.data.samples.saccade import (
    SaccadeCropSettings,
    draw_center,
    draw_scale,
    resized_crop,
    sample_saccade,
)
from tests.support.saccade_golden import CFG, RANGES, RUNS, TARGETS, Replay, blocky_noise

SETTINGS = SaccadeCropSettings(
    input_size=(255, 255),
    scales=CFG["rand_scales"],
    ranges=RANGES,
    min_side=16,
    centered=True,
    color=True,
    lighting=True,
)


def golden_image(number):
    image = blocky_noise(int(TARGETS["image_seeds"][number]), *TARGETS["sizes"][number])
    boxes = TARGETS[f"boxes_{number}"]
    return image, boxes[:, :4], boxes[:, 4].astype(int) - 1


class NoFlip(Replay):
    """Draws of a reference run that never flipped: it lacks the draw of a flip, which is 1 here."""

    def random(self):
        return super().random() if self.log and self.log[0][0] == "uniform" else 1.0


def replayed(run):
    """Makes the samples of the five golden images with the draws of one of the reference's runs."""
    rng = (NoFlip if run["debug"] else Replay)(run["log"], CFG["rand_scales"])
    settings = replace(SETTINGS, color=False)
    samples = [sample_saccade(*golden_image(i), rng, settings) for i in range(5)]
    assert not rng.log
    return samples


@pytest.mark.parametrize("number", range(3))
def test_equals_the_reference(number):
    run = RUNS[number]
    for row, sample in enumerate(replayed(run)):
        final, ratio = TARGETS[f"run{number}_final_{row}"], TARGETS[f"run{number}_ratio_{row}"]
        np.testing.assert_allclose(sample.boxes, final[:, :4], atol=1e-4)
        np.testing.assert_array_equal(sample.labels, final[:, 4].astype(int) - 1)
        sides = final[:, 2:4].astype(int) - final[:, :2].astype(int)
        usable = (ratio > 0.5) & (sides.max(1, initial=0) >= 16)
        np.testing.assert_array_equal(sample.usable, usable)
        if run["debug"]:
            seen = sample.image[:, ::17, ::19].astype(int)
            assert np.abs(seen - TARGETS[f"run{number}_images_sub"][row]).max() <= 1


@pytest.mark.parametrize("case", range(6))
def test_crops_of_the_reference(case):
    cy, cx, *size, out_height, out_width = TARGETS["crop_cases"][case].tolist()
    seed, height, width = TARGETS["crop_image_seed"].tolist()
    image = blocky_noise(seed, height, width)
    window, (left, top, right, bottom) = resized_crop(image, (height, width), (cy, cx), size)
    y0, y1, x0, x1 = TARGETS[f"crop_border_{case}"]
    golden = TARGETS[f"crop_img_{case}"]
    seen = golden[int(y0) : int(y1), int(x0) : int(x1)]
    np.testing.assert_array_equal(window[top:bottom, left:right], seen)
    assert window.sum() == golden.sum()
    if tuple(size) == (out_height, out_width):
        np.testing.assert_array_equal(window, golden)
        assert (y0, y1, x0, x1) == (top, bottom, left, right)


@pytest.mark.parametrize("scale", [0.21, 0.7, 1.0, 1.37, 3.3])
@pytest.mark.parametrize("center", [(0.5, 0.5), (0.0, 0.99), (0.8, 0.1)])
def test_a_resized_crop_is_a_crop_of_the_resized(scale, center):
    image = blocky_noise(3, 90, 131)
    scaled = (int(90 * scale), int(131 * scale))
    point = tuple(int(part * side) for part, side in zip(center, scaled, strict=True))
    window, seen = resized_crop(image, scaled, point, (63, 47))
    resized = cv2.resize(image, scaled[::-1], interpolation=cv2.INTER_LINEAR)
    expected, _ = transforms.crop(resized, np.zeros((0, 4), np.float32), (63, 47), point)
    assert np.abs(window.astype(int) - expected).max() <= 1
    black = np.ones((63, 47), bool)
    black[seen[1] : seen[3], seen[0] : seen[2]] = False
    assert (window[black] == 0).all()


@pytest.mark.parametrize(
    ("side", "low", "high"),
    [(300, 96, 254), (97, 96, 254), (96, 32, 96), (32, 16, 32), (2, 16, 32)],
)
def test_the_object_gets_a_size_within_its_range(side, low, high):
    boxes, rng = np.array([[0, 0, side, 1]], np.float32), np.random.default_rng(0)
    draws = [draw_scale(boxes, (1.0,), RANGES, 16, (255, 255), rng) for _ in range(2000)]
    sides = np.round([scale * side for scale, _ in draws])
    assert {reference for _, reference in draws} == {0}
    assert (sides.min(), sides.max()) == (low, high)


def test_without_objects_a_scale_is_chosen():
    rng = np.random.default_rng(0)
    nothing = np.zeros((0, 4), np.float32)
    draws = {draw_scale(nothing, (0.5, 0.7), RANGES, 16, (255, 255), rng) for _ in range(50)}
    assert draws == {(0.5, None), (0.7, None)}


@pytest.mark.parametrize("centered", [False, True])
def test_the_object_is_in_sight(centered):
    rng = np.random.default_rng(1)
    for _ in range(300):
        low = rng.uniform(0, (600, 300))
        box = np.concatenate((low, low + rng.uniform(1, 200, 2))).astype(np.float32)
        cy, cx = draw_center((500, 800), (255, 255), box, centered, rng)
        view = np.array([cx - 127, cy - 127, cx + 127, cy + 127])
        slack = 15 if centered else 2
        inside = np.minimum(box[2:], view[2:] + slack) - np.maximum(box[:2], view[:2] - slack)
        if not centered:
            np.testing.assert_allclose(inside, box[2:] - box[:2], atol=1e-4)
        assert (inside > 0.4 * (box[2:] - box[:2])).all()


def test_of_an_object_longer_than_the_view_some_part_is_seen():
    rng, box = np.random.default_rng(2), np.array([50, 20, 450, 480], np.float32)
    for _ in range(200):
        cy, cx = draw_center((500, 500), (127, 127), box, False, rng)
        assert cx - 63 >= 50 and cx + 63 <= 450 and cy - 63 >= 20 and cy + 63 <= 480


def test_validation_sees_the_whole_image():
    image = np.full((100, 200, 3), 77, np.uint8)
    boxes = np.array([[10, 20, 110, 60], [0, 0, 6, 5]], np.float32)
    sample = sample_saccade(image, boxes, np.array([3, 1]), None, SETTINGS)
    seen = sample.image[:, 64:191, :254]  # the last row and column of an odd window stay black
    assert (seen == 77).all() and sample.image.sum(dtype=int) == seen.sum(dtype=int)
    expected = boxes * 1.275 + [0, 64, 0, 64]
    np.testing.assert_allclose(sample.boxes, expected, atol=0.6)
    assert sample.usable.tolist() == [True, False]  # the second is shorter than 16 pixels
    assert sample.color is NORMALIZE
    again = sample_saccade(image, boxes, np.array([3, 1]), None, SETTINGS)
    np.testing.assert_array_equal(sample.image, again.image)


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (3000, 2), (254, 256), (40, 50)])
@pytest.mark.parametrize("input_size", [(255, 255), (127, 191)])
@pytest.mark.parametrize("augmented", [False, True])
def test_images_of_any_size(size, input_size, augmented):
    rng = np.random.default_rng(5)
    image = rng.integers(1, 256, (*size, 3)).astype(np.uint8)
    height, width = size
    boxes = np.array(
        [[0, 0, width, height], [width / 3, height / 3, width / 2, height / 2]], np.float32
    )
    settings = replace(SETTINGS, input_size=input_size)
    for _ in range(5):
        draws = rng if augmented else None
        sample = sample_saccade(image, boxes, np.array([0, 1]), draws, settings)
        assert sample.image.shape == (3, *input_size) and sample.image.any()
        assert (sample.boxes >= 0).all()
        assert (sample.boxes[:, 2:] <= [input_size[1] - 1, input_size[0] - 1]).all()
        assert len(sample.boxes) == len(sample.labels) == len(sample.usable)
        assert (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()


@pytest.mark.parametrize("boxes", [np.zeros((0, 4)), np.array([[5.0, 5, 5, 9], [300, 1, 400, 9]])])
def test_images_without_any_object_inside(boxes):
    image = np.full((120, 130, 3), 9, np.uint8)
    rng = np.random.default_rng(0)
    sample = sample_saccade(image, boxes, np.zeros(len(boxes), int), rng, SETTINGS)
    assert sample.boxes.shape == (0, 4) and sample.usable.shape == (0,)
    assert sample.boxes.dtype == np.float32 and sample.labels.dtype == np.int64


def test_a_sample_depends_on_its_generator_alone_and_changes_no_input():
    image, boxes, labels = golden_image(1)
    kept = image.copy(), boxes.copy(), labels.copy()
    sample = partial(sample_saccade, settings=SETTINGS)
    first, second = (
        pickle.loads(pickle.dumps(sample))(image, boxes, labels, np.random.default_rng(seed))
        for seed in (4, 4)
    )
    for name in ("image", "boxes", "labels", "color", "usable"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert not np.array_equal(first.color, NORMALIZE)
    for array, copy in zip((image, boxes, labels), kept, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_boxes_are_flipped_with_their_image():
    image, boxes = np.zeros((255, 255, 3), np.uint8), np.array([[20, 40, 90, 100]], np.float32)
    image[40:100, 20:90] = 255
    for seed in range(20):
        sample = sample_saccade(image, boxes, np.array([0]), np.random.default_rng(seed), SETTINGS)
        x0, y0, x1, y1 = sample.boxes[0]
        bright = np.argwhere(sample.image[0] > 127)
        np.testing.assert_allclose(bright.min(0), [y0, x0], atol=2)
        np.testing.assert_allclose(bright.max(0), [y1, x1], atol=2)
