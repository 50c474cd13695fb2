"""Drawings: positions and colours of boxes, crops and attention; the image stays unchanged."""

import cv2
import numpy as np
import pytest
import torch

from core.evaluation.draw import (
    class_color,
    draw_detections,
    draw_saccades,
    jpeg,
    side_by_side,
)
from core.inference.crops import plan_crops
from core.inference.saccade import SaccadeRound
from tests.support.saccade_golden import RANGES, STRIDES

NAMES = ("circle", "square")


def gray(height, width):
    return np.full((height, width, 3), 100, np.uint8)


def test_a_box_is_drawn_in_the_colour_of_its_class():
    image = gray(400, 640)
    boxes, labels = np.array([[100.0, 200, 300, 350]]), np.array([1])
    drawn = draw_detections(image, boxes, labels, np.array([0.5]), NAMES)
    assert drawn.shape == image.shape
    assert (image == 100).all()
    for y, x in ((350, 200), (275, 100), (275, 300)):
        assert tuple(drawn[y, x]) == class_color(1)
    assert (drawn[220:340, 110:290] == 100).all()
    assert (drawn[:150] == 100).all()
    assert (drawn[170:198, 100:160] != 100).any()


def test_small_images_are_enlarged():
    drawn = draw_detections(gray(100, 127), np.array([[10, 20, 100, 90]]), [0], None, NAMES)
    assert drawn.shape == (400, 508, 3)
    assert tuple(drawn[360, 200]) == class_color(0)


def test_the_best_detection_lies_on_top():
    boxes = np.array([[50, 50, 200, 200]] * 2)
    for scores, top in (([0.9, 0.2], 0), ([0.2, 0.9], 1)):
        drawn = draw_detections(gray(500, 500), boxes, [0, 1], np.array(scores), NAMES)
        assert tuple(drawn[200, 100]) == class_color(top)


@pytest.mark.parametrize("scores", [None, np.zeros(0)])
def test_no_boxes(scores):
    image = gray(480, 480)
    drawn = draw_detections(image, np.zeros((0, 4)), np.zeros(0, int), scores, NAMES)
    np.testing.assert_array_equal(drawn, image)
    assert not np.shares_memory(drawn, image)


def test_boxes_and_labels_beyond_the_image():
    boxes = np.array([[-50.0, -50, 900, 900], [470, 470, 479, 479], [0, 0, 3, 3]])
    drawn = draw_detections(gray(480, 480), boxes, [0, 1, 1], None, ("a" * 200, "größe"))
    assert drawn.shape == (480, 480, 3)


def test_colours_of_eighty_classes_differ():
    colors = np.array([class_color(label) for label in range(80)])
    assert len(np.unique(colors, axis=0)) == 80
    neighbours = np.abs(np.diff(colors[:12], axis=0)).sum(1)
    assert neighbours.min() > 150


def saccade_round(locations, size, cells=()):
    """A round of views of 255 pixels; attention is 0.95 in ``cells`` of the first map."""
    attention = [torch.zeros(len(locations), 1, side, side) for side in (16, 32, 64)]
    for row, column in cells:
        attention[0][:, 0, row, column] = 0.95
    crops = plan_crops(np.array(locations, np.float64), size, (255, 255))
    return SaccadeRound(crops, np.zeros((0, 8), np.float32), attention, (), STRIDES, RANGES)


def test_saccades_are_drawn_as_crops_and_attention():
    image = np.full((300, 400, 3), 90, np.uint8)
    kept = image.copy()
    scale = 255 / 400
    first = saccade_round([(150, 200, scale)], image.shape[:2], [(8, 8)])
    second = saccade_round([(150, 200, 2 * scale)], image.shape[:2])
    drawn = draw_saccades(image, [first, second])
    np.testing.assert_array_equal(image, kept)
    zoom = 2  # small images are enlarged
    top = drawn.shape[0] - 300 * zoom
    width = (drawn.shape[1] + 4) // 4
    panels = [drawn[top:, n * width : n * width + 400 * zoom] for n in range(4)]
    (x, y), *_ = second.crops.start[:, ::-1] * zoom
    assert (panels[0][y + 50, x] != 90).any() and (panels[0][-5, 5] == 90).all()
    point = (8 * 16 / first.crops.scales[0] + first.crops.offsets[0]).astype(int) * zoom
    lit = panels[1][point[0] + 20, point[1] + 20].astype(int)
    assert lit.sum() > panels[1][-5, 5].astype(int).sum() + 200
    assert (panels[2] == panels[2][-5, 5]).all()  # the other maps are dark


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 3), (40, 50)])
def test_saccades_on_images_of_any_size(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    height, width = size
    first = saccade_round([(height // 2, width // 2, 255 / max(size))], size)
    corners = saccade_round([(0, 0, 1), (height - 1, width - 1, 4)], size)
    for trace in ([first], [first, corners]):
        drawn = draw_saccades(image, trace)
        assert drawn.dtype == np.uint8 and drawn.ndim == 3 and drawn.any()


def test_side_by_side():
    left, right = gray(300, 200), gray(300, 200) // 2
    both = side_by_side({"detections": left, "ground truth": right})
    caption, gap = both.shape[0] - 300, both.shape[1] - 400
    assert 10 < caption < 60 and 0 < gap < 10
    np.testing.assert_array_equal(both[caption:, :200], left)
    np.testing.assert_array_equal(both[caption:, -200:], right)
    assert side_by_side({"one": left}).shape == (300 + caption, 200, 3)
    assert side_by_side({"a": left, "b": left, "c": left}).shape[1] == 3 * 200 + 2 * gap


def test_very_wide_drawings_lie_below_each_other():
    drawn = side_by_side({"a": gray(20, 500), "b": gray(20, 500) // 2})
    assert drawn.shape[1] == 500 and drawn.shape[0] > 40
    assert (drawn[-20:] == 50).all()


@pytest.mark.parametrize("shape", [(20, 30), (3, 70_000), (70_000, 3)])
def test_every_drawing_is_a_file_that_opens(shape):
    content = np.frombuffer(jpeg(gray(*shape)), np.uint8)
    opened = cv2.imdecode(content, cv2.IMREAD_COLOR)
    height, width, _ = opened.shape
    assert max(height, width) == min(max(shape), 65_500)
