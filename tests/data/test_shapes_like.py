"""The kinds of hard images: objects of the promised sizes, and boxes that fit them."""

import json

import cv2
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from core.config.errors import UserError
from core.data import shapes, shapes_like, shapes_natural
from core.data.coco import CocoDetection
from core.data.shapes import main
from core.data.shapes_drawing import rasterise
from core.data.shapes_like import CROWD, KINDS, LARGE_SIDES, PHOTO, SMALL_SIDES
from core.data.shapes_natural import ANIMAL_SIDES, pink_noise
from core.data.shapes_scene import append_, blend_, leaves_visible, photograph
from tests.data.test_shapes import assert_tight


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    """A kind's name, and eight images of it."""
    draw = KINDS[request.param].draw
    return request.param, [draw(np.random.default_rng((317, 0, index))) for index in range(8)]


def test_objects_of_a_kind_lie_inside_and_are_labelled(kind):
    name, images = kind
    for drawn in images:
        sides = drawn.boxes[:, 2:] - drawn.boxes[:, :2]
        assert (drawn.boxes[:, :2] >= 0).all()
        assert (drawn.boxes[:, 2:] <= drawn.image.shape[1::-1]).all()
        assert (drawn.areas > 0.1 * sides.prod(1)).all() and (drawn.areas <= sides.prod(1)).all()
        assert len(drawn.labels) == len(drawn.boxes)
    labels = np.concatenate([drawn.labels for drawn in images])
    assert set(labels.tolist()) == set(range(len(KINDS[name].class_names)))


def test_objects_of_a_kind_have_its_sizes_and_numbers(kind):
    name, images = kind
    counts = np.array([len(drawn.boxes) for drawn in images])
    boxes = [drawn.boxes / np.tile(drawn.image.shape[1::-1], 2) for drawn in images]
    longer = np.concatenate([(drawn.boxes[:, 2:] - drawn.boxes[:, :2]).max(1) for drawn in images])
    sizes = {drawn.image.shape[:2] for drawn in images}
    if name == "small":
        assert sizes == {PHOTO} and counts.max() <= 16 and counts.mean() > 5
        assert longer.min() >= SMALL_SIDES[0] - 0.01 and longer.max() <= 2 * SMALL_SIDES[1] + 0.01
        assert 0.75 < (longer <= SMALL_SIDES[1]).mean() < 1
    elif name == "crowded":
        assert sizes == {PHOTO} and counts.min() >= CROWD[0] and counts.max() <= CROWD[1]
        assert counts.max() - counts.min() > 15
        assert longer.min() > 25 and longer.max() < 130
    elif name == "natural":
        assert sizes == {PHOTO, PHOTO[::-1]} and {1, 2} == set(counts.tolist())
        relative = np.concatenate([(box[:, 2:] - box[:, :2]).max(1) for box in boxes])
        low, high = ANIMAL_SIDES
        assert relative.min() >= low - 1e-4 and relative.max() <= high + 1e-4
    else:
        assert len(sizes) == len(images) and {1, 2} <= set(counts.tolist()) <= {0, 1, 2}
        ratios = np.array([width / height for height, width in sizes])
        assert ratios.min() < 0.95 and ratios.max() > 1.2
        relative = np.concatenate([(box[:, 2:] - box[:, :2]).max(1) for box in boxes])
        low, high = LARGE_SIDES
        assert relative.min() >= low - 1e-4 and relative.max() <= high + 1e-4
        assert np.ptp(relative) > 0.3


def test_objects_of_a_crowd_overlap_and_none_is_hidden():
    for index in (2, 3, 4):
        drawn = KINDS["crowded"].draw(np.random.default_rng((317, 0, index)))
        low, high = np.split(drawn.boxes, 2, axis=1)
        common = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
        areas = np.clip(common, 0, None).prod(axis=2)
        np.fill_diagonal(areas, 0)
        # Most cells share a tenth of their box with another, even where there are few of them.
        assert (areas.max(axis=1) > 0.1 * (high - low).prod(axis=1)).mean() > 0.65
        assert drawn.visible.min() > 0.5 and (drawn.visible < 0.95).mean() > 0.2


def record_drawn(monkeypatch):
    """Records boxes and covers of the objects, as the image is made of them."""
    recorded = []

    def record(canvas, drawn, rng):
        recorded.append((canvas, drawn))
        return photograph(canvas, drawn, rng)

    for module in (shapes_like, shapes_natural):
        monkeypatch.setattr(module, "photograph", record)
    return recorded


@pytest.mark.parametrize("name", KINDS)
def test_boxes_of_a_kind_are_tight_around_what_is_drawn(name, monkeypatch):
    recorded = record_drawn(monkeypatch)
    for seed in range(4):
        KINDS[name].draw(np.random.default_rng(seed))
    assert sum(len(drawn) for _, drawn in recorded) >= 3
    for canvas, drawn in recorded:
        for each in drawn:
            assert_tight(each.box, each.cover)
            assert each.cover.window[0].stop <= canvas.shape[0]
            assert each.cover.window[1].stop <= canvas.shape[1]


@pytest.mark.parametrize("name", KINDS)
def test_what_is_drawn_lies_where_the_covers_say(name, monkeypatch):
    """Without any object the same background shows; it differs from the image in covers only."""
    recorded = record_drawn(monkeypatch)
    lost = []

    def blend_and_note(canvas, cover, color, alpha):
        before = canvas.copy()
        blend_(canvas, cover, color, alpha)
        lost.append((before != canvas).any(axis=2))

    for module in (shapes_like, shapes_natural):
        monkeypatch.setattr(module, "blend_", blend_and_note)
    monkeypatch.setattr(shapes_natural, "_IN_FRONT", 0)  # of an animal, nothing is drawn
    image = KINDS[name].draw(np.random.default_rng(2))
    ((canvas, drawn),) = recorded
    assert len(drawn) == len(image.boxes) > 0
    last = drawn[-1]
    covered = np.zeros(canvas.shape[:2], bool)
    covered[last.cover.window] = last.cover.fraction > 0
    steps = {"small": 1, "crowded": 2, "large": 11, "natural": 11}[
        name
    ]  # that draw the last object
    changed = np.any(lost[-steps:], axis=0)
    assert not (changed & ~covered).any() and changed.sum() > 0.95 * covered.sum()


def test_leaves_hide_a_part_of_some_animals():
    visible = np.concatenate(
        [KINDS["natural"].draw(np.random.default_rng(index)).visible for index in range(12)]
    )
    assert visible.min() > 0.6 and 0.2 < (visible < 0.98).mean() < 0.9


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.4])
def test_noise_has_the_spectrum_of_its_exponent(exponent):
    texture = pink_noise((256, 320), exponent, np.random.default_rng(4))
    amplitude = np.abs(np.fft.rfft2(texture))
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(320))
    rings = [(frequency > low) & (frequency < 1.2 * low) for low in (0.02, 0.2)]
    low, high = (amplitude[ring].mean() for ring in rings)
    assert texture.dtype == np.float32 and abs(texture.std() - 1) < 1e-3
    np.testing.assert_allclose(np.log10(low / high), exponent, atol=0.05)


def test_the_visible_fraction_is_that_of_the_pixels():
    rng = np.random.default_rng(3)
    square = [np.array([(0, 0), (1, 0), (1, 1), (0, 1)])]
    drawn = []
    for box in ([2, 2, 12, 12], [7, 2, 17, 12], [2, 7, 12, 17], [40, 40, 50, 50]):
        cover = rasterise(square, np.array(box, float))
        append_(drawn, np.array(box, float), 0, cover)
    seen = photograph(np.zeros((60, 60, 3), np.float32), drawn, rng).visible
    np.testing.assert_allclose(seen, [0.25, 0.75, 1, 1], atol=0.02)
    one_more = rasterise(square, np.array([2, 2, 7, 7.0]))
    assert leaves_visible(drawn[1:], one_more, 0.99)
    assert not leaves_visible(drawn, one_more, 0.2)
    assert leaves_visible([], one_more, 1)


@pytest.mark.parametrize("name", KINDS)
def test_files_of_a_kind(name, tmp_path):
    for folder, train, seed in (("one", 3, 7), ("two", 2, 7), ("three", 2, 8)):
        argv = ["--like", name, "--train", train, "--val", 2, "--seed", seed]
        assert main([str(argument) for argument in (tmp_path / folder, *argv)]) == 0
    sets = {
        folder.name: CocoDetection(
            folder / "annotations" / "instances_train.json", folder / "images" / "train"
        )
        for folder in tmp_path.iterdir()
    }
    content = {key: each.image_path(1).read_bytes() for key, each in sets.items()}
    assert content["one"] == content["two"] != content["three"]
    assert_array_equal(sets["one"].boxes(1), sets["two"].boxes(1))
    whole = sets["one"]
    assert whole.class_names == KINDS[name].class_names and (whole.repaired, whole.dropped) == (
        0,
        0,
    )
    for index in range(len(whole)):
        image = cv2.imread(str(whole.image_path(index)))
        assert image.shape[:2] == tuple(whole.sizes[index])
    val = json.loads((tmp_path / "one" / "annotations" / "instances_val.json").read_text())
    assert len(val["images"]) == 2 and f"like {name}, seed 7" in val["info"]["description"]


def test_a_kind_has_150_and_50_images_by_default(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(shapes, "_write", lambda *arguments: written.append(arguments[1]))
    main([str(tmp_path), "--like", "large"])
    main([str(tmp_path)])
    main([str(tmp_path), "--like", "large", "--val", "7"])
    counts = [(150, 50), (6000, 200), (150, 7)]
    assert written == [{"train": train, "val": val} for train, val in counts]


@pytest.mark.parametrize("argv", [["--size", "127"], ["--mostly-small"]])
def test_a_kind_has_its_own_sizes(tmp_path, argv):
    with pytest.raises(UserError, match="--like has sizes of its own"):
        main([str(tmp_path / "out"), "--like", "small", *argv])
    assert not (tmp_path / "out").exists()
