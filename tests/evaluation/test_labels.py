"""Places of labels: beside their boxes, within the image, clear of each other where they can."""

import numpy as np

from core.evaluation.labels import place_labels


def rectangles(places, sizes):
    return np.concatenate([places, places + sizes], 1)


def common(one, other):
    width, height = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    return max(width, 0) * max(height, 0)


def overlapping(places, sizes):
    boxes = rectangles(places, sizes)
    return sum(
        common(boxes[a], boxes[b]) > 0 for a in range(len(boxes)) for b in range(a + 1, len(boxes))
    )


def test_a_label_lies_above_its_box():
    places = place_labels(np.array([[100, 50, 200, 150]]), np.array([[60, 15]]), (400, 400))
    assert places.tolist() == [[100, 35]]


def test_at_the_top_it_lies_inside():
    places = place_labels(np.array([[100, 3, 200, 150]]), np.array([[60, 15]]), (400, 400))
    assert places.tolist() == [[100, 0]]


def test_labels_stay_within_the_image():
    rng = np.random.default_rng(0)
    boxes = rng.integers(-100, 500, (60, 4))
    sizes = np.stack([rng.integers(10, 120, 60), rng.integers(8, 20, 60)], 1)
    boxes[:, 2:] = boxes[:, :2] + rng.integers(0, 200, (60, 2))
    ends = rectangles(place_labels(boxes, sizes, (300, 400)), sizes)
    assert (ends[:, :2] >= 0).all() and (ends[:, 2:] <= [400, 300]).all()
    wide = place_labels(np.array([[5, 5, 9, 9]]), np.array([[900, 20]]), (300, 400))
    assert wide[0, 0] == 0


def test_labels_of_the_same_box_do_not_hide_each_other():
    boxes = np.tile([100, 100, 220, 180], (6, 1))
    sizes = np.tile([55, 14], (6, 1))
    assert overlapping(place_labels(boxes, sizes, (400, 400)), sizes) == 0


def test_labels_of_a_crowd_keep_clear_and_by_their_boxes():
    rng = np.random.default_rng(1)
    starts = rng.integers(0, [540, 380], (30, 2))
    boxes = np.concatenate([starts, starts + rng.integers(60, 110, starts.shape)], 1)
    sizes = np.tile([70, 14], (len(boxes), 1))
    places = place_labels(boxes, sizes, (480, 640))
    above = np.clip(boxes[:, :2] - [0, 14], 0, None)
    assert overlapping(above, sizes) > 3 and overlapping(places, sizes) == 0
    grown = boxes + np.array([-71, -29, 71, 29])
    for plate, box in zip(rectangles(places, sizes), grown, strict=True):
        assert common(plate, box) > 0
    np.testing.assert_array_equal(places, place_labels(boxes, sizes, (480, 640)))


def test_no_labels():
    nothing = np.zeros((0, 4), int), np.zeros((0, 2), int)
    assert place_labels(*nothing, (10, 10)).shape == (0, 2)
