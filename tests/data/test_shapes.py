"""The generated dataset: boxes fit the shapes, and everything depends on the seed alone."""

import json

import cv2
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from core.config.errors import UserError
from core.data import shapes
from core.data.coco import CocoDetection
from core.data.shapes import draw_image, main
from core.data.shapes_drawing import (
    CLASS_NAMES,
    MIN_CONTRAST,
    background,
    outlines,
    paint,
    place,
    rasterise,
)

COUNT, SIZE = 150, 96

PINNED_BOXES = [
    (13.578255, 21.074379, 39.35881, 51.558876),
    (0.9720926, 31.318005, 27.261614, 62.622833),
    (35.341354, 29.964806, 50.28483, 46.45427),
]
PINNED_COLORS = [  # means of the quarters of the image
    [(191.39, 60.62, 87.18), (206.83, 53.43, 76.53)],
    [(199.13, 144.25, 84.59), (203.07, 92.90, 75.17)],
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes") / "new" / "set"
    argv = [root, "--train", COUNT, "--val", 20, "--size", SIZE, "--seed", 5]
    assert main([str(argument) for argument in argv]) == 0
    return root


@pytest.fixture(scope="module")
def train(root):
    return CocoDetection(root / "annotations" / "instances_train.json", root / "images" / "train")


def assert_tight(box, cover):
    """Asserts that a box reaches as far as the pixels that are covered, and no farther."""
    columns = np.nonzero(cover.fraction.any(axis=0))[0] + cover.left
    rows = np.nonzero(cover.fraction.any(axis=1))[0] + cover.top
    # Nothing is drawn in a pixel outside the box, and the box's outermost pixels are reached; a
    # sharp tip covers so little of its pixel that it may vanish.
    low, high = np.array([columns[0], rows[0]]), np.array([columns[-1], rows[-1]]) + 1
    assert (low >= np.floor(box[:2])).all() and (low - box[:2] < 0.3).all()
    assert (high <= np.ceil(box[2:])).all() and (box[2:] - high < 0.3).all()


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_boxes_are_tight_around_what_is_drawn(name):
    rng = np.random.default_rng(CLASS_NAMES.index(name))
    for _ in range(40):
        box = place(shapes._sides(SIZE, rng), (SIZE, SIZE), rng)
        assert_tight(box, rasterise(outlines(name, rng), box))


def test_a_rectangle_covers_its_area():
    square = [np.array([(0, 0), (1, 0), (1, 1), (0, 1)])]
    cover = rasterise(square, np.array([2.5, 3.25, 10.25, 9.5]))
    assert cover.window == (slice(3, 10), slice(2, 11))
    assert cover.fraction.sum() == pytest.approx(7.75 * 6.25, rel=1e-3)
    assert cover.fraction[2, 0] == pytest.approx(0.5, abs=0.01)
    assert cover.fraction[0, 3] == pytest.approx(0.75, abs=0.01)


def test_boxes_have_the_promised_sizes_and_lie_inside(train):
    assert (train.repaired, train.dropped) == (0, 0)
    boxes = np.concatenate([train.boxes(index) for index in range(len(train))])
    sides = boxes[:, 2:] - boxes[:, :2]
    assert sides.min() >= 9.99 and sides.max() <= SIZE / 2 + 0.01
    assert sides.min() < 12 and sides.max() > SIZE / 2 - 4


def test_classes_overlap_and_empty_images(train):
    labels = np.concatenate([train.labels(index) for index in range(len(train))])
    assert len(CLASS_NAMES) >= 5 and train.class_names == CLASS_NAMES
    assert np.bincount(labels, minlength=len(CLASS_NAMES)).min() > 20
    assert 1 <= (train.box_counts() == 0).sum() <= COUNT // 10
    overlapping = 0
    for index in range(len(train)):
        low, high = np.split(train.boxes(index), 2, axis=1)
        sides = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
        overlapping += ((sides > 0).all(axis=2).sum() - len(low)) // 2 > 0
    assert overlapping > COUNT // 4


def test_no_shape_is_hidden_by_more_than_a_quarter():
    cover = np.ones((4, 4), np.float32)
    hidden = np.zeros((4, 4), np.float32)
    hidden[:3] = 1
    assert shapes._visible(cover, hidden) == 0.25
    rng = np.random.default_rng(1)
    visible = np.concatenate([draw_image(SIZE, rng).visible for _ in range(60)])
    assert 0.75 <= visible.min() < 0.8 and visible.max() == 1
    assert (visible < 0.95).mean() > 0.05


def test_the_images_are_jpeg_files_of_the_written_sizes(root, train):
    for index in range(0, COUNT, 10):
        path = train.image_path(index)
        assert path.read_bytes()[:2] == b"\xff\xd8"
        assert cv2.imread(str(path)).shape == (SIZE, SIZE, 3)
    for row in json.loads(train.annotation_file.read_text())["annotations"]:
        assert 0 < row["area"] <= row["bbox"][2] * row["bbox"][3] and row["iscrowd"] == 0


def test_colors_stand_out_from_what_is_behind():
    for seed in range(50):
        rng = np.random.default_rng(seed)
        behind = background((SIZE, SIZE), rng)[10:30, 20:50].reshape(-1, 3)
        before = behind.copy()
        distances = np.linalg.norm(behind - paint(behind, rng), axis=1)
        assert (distances > MIN_CONTRAST - 5).mean() > 0.85
        assert_array_equal(behind, before)


def test_an_image_depends_on_seed_split_and_number_alone(root, tmp_path):
    def content(folder, split, number):
        return (folder / "images" / split / f"{number:06d}.jpg").read_bytes()

    main([str(tmp_path), "--train", "12", "--val", "2", "--size", str(SIZE), "--seed", "5"])
    assert all(content(tmp_path, "train", i) == content(root, "train", i) for i in range(12))
    boxes = [
        CocoDetection(folder / "annotations" / "instances_train.json", folder).boxes(11)
        for folder in (root, tmp_path)
    ]
    assert_array_equal(*boxes)
    assert content(root, "train", 0) != content(root, "val", 0)
    main([str(tmp_path), "--train", "2", "--val", "1", "--size", str(SIZE), "--seed", "6"])
    assert content(tmp_path, "train", 0) != content(root, "train", 0)


def test_small_shapes_in_large_images(tmp_path):
    argv = ["--train", "60", "--val", "1", "--size", "160", "--mostly-small"]
    main([str(tmp_path), *argv])
    train = CocoDetection(tmp_path / "annotations" / "instances_train.json", tmp_path)
    boxes = np.concatenate([train.boxes(index) for index in range(len(train))])
    longer = (boxes[:, 2:] - boxes[:, :2]).max(1)
    assert longer.min() >= 9.99 and longer.max() <= 80.01
    octaves = np.histogram(longer, [9.9, 20, 40, 80.1])[0] / len(longer)
    assert octaves.min() > 0.2


@pytest.mark.parametrize("argv", [["--size", "19"], ["--train", "0"], ["--seed", "-1"]])
def test_numbers_out_of_range_are_refused(tmp_path, argv):
    with pytest.raises(UserError, match=argv[0]):
        main([str(tmp_path / "out"), *argv])
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files and nothing was written"):
        main([str(tmp_path), "--train", "1", "--val", "1"])
    with pytest.raises(UserError, match="is a file"):
        main([str(tmp_path / "mine.txt"), "--train", "1", "--val", "1"])
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_plain_shapes_stay_as_they_were():
    """Configs, figures of pages and other tests rest on them; pixels up to OpenCV's rounding."""
    drawn = draw_image(64, np.random.default_rng((317, 0, 5)))
    np.testing.assert_allclose(drawn.boxes, PINNED_BOXES, rtol=1e-6)
    assert_array_equal(drawn.labels, [5, 5, 0])
    quarters = drawn.image.reshape(2, 32, 2, 32, 3).mean((1, 3))
    np.testing.assert_allclose(quarters, PINNED_COLORS, atol=0.5)
