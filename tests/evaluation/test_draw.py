"""Drawn boxes: where they are, in which colour, and that nothing is harmed."""

import cv2
import numpy as np
import pytest

from core.evaluation.draw import class_color, draw_detections, jpeg, side_by_side

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


def test_small_pictures_are_enlarged():
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


def test_boxes_and_labels_beyond_the_picture():
    boxes = np.array([[-50.0, -50, 900, 900], [470, 470, 479, 479], [0, 0, 3, 3]])
    drawn = draw_detections(gray(480, 480), boxes, [0, 1, 1], None, ("a" * 200, "größe"))
    assert drawn.shape == (480, 480, 3)


def test_colours_of_eighty_classes_differ():
    colors = np.array([class_color(label) for label in range(80)])
    assert len(np.unique(colors, axis=0)) == 80
    neighbours = np.abs(np.diff(colors[:12], axis=0)).sum(1)
    assert neighbours.min() > 150


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
