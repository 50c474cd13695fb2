"""Samples that show the whole image: where its pixels go, its boxes go too."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from core.config.schema import Db
from core.data import transforms
from core.data.color import NORMALIZE
from core.data.samples import CropSettings, sample_unchanged
from core.data.samples.centers import sample_centers
from core.data.samples.corners import sample_corners
from core.data.samples.fit import (
    FitSettings,
    choose_sample,
    combine,
    draw_map,
    draw_mosaic,
    map_boxes,
    paint_,
    sample_fit,
)

OPTIONS = FitSettings(
    input_size=(96, 128),
    zoom=(0.8, 1.25),
    shift=0.15,
    min_visible=0.0,
    vertical_flip=False,
    quarter_turns=False,
    color=False,
    lighting=False,
)
STILL = replace(OPTIONS, zoom=(1.0, 1.0), shift=0.0)
SIZE = (120, 180)  # fits into the input at 85.3 x 128 pixels
BOXES = np.array([[5, 6, 90, 70], [40, 30, 170, 110]], np.float32)
NOTHING = np.zeros((0, 4), np.float32)

# What can be drawn, one at a time and together; zooms that shrink by more than half are among it.
DRAWN = {
    "still": STILL,
    "zoom": replace(STILL, zoom=(0.8, 1.25)),
    "small": replace(STILL, zoom=(0.2, 0.5)),
    "large": replace(STILL, zoom=(1.5, 3.0)),
    "shift": replace(STILL, shift=0.5),
    "vertical_flip": replace(STILL, vertical_flip=True),
    "quarter_turns": replace(STILL, quarter_turns=True),
    "all": replace(OPTIONS, zoom=(0.5, 2.0), shift=0.3, vertical_flip=True, quarter_turns=True),
}


def blurred_noise(seed, height, width):
    """An image without two places that look the same, which interpolation keeps."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3))
    return cv2.resize(noise.astype(np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


def marked(size, box, blur=1):
    """A black image with a white box of whole pixels, whose edges are in the middle of a ramp."""
    image = np.zeros((*size, 3), np.uint8)
    x0, y0, x1, y1 = box
    image[y0:y1, x0:x1] = 255
    return cv2.blur(image, (blur, blur))


def measured(image):
    """The box [4] that is white in an image [3, h, w], to a fraction of a pixel."""
    white = image[0] / 255.0
    edges = []
    for profile in (white.max(0), white.max(1)):
        length = profile.sum()
        middle = (profile * (np.arange(len(profile)) + 0.5)).sum() / length
        edges.append((middle - length / 2, middle + length / 2))
    return np.array(edges).T.ravel()


def sample(rng=None, boxes=BOXES, settings=OPTIONS, others=()):
    image = blurred_noise(3, *SIZE)
    return sample_fit(image, boxes, np.arange(len(boxes)), rng, settings, others)


def one_hot_mosaic(number, box, sizes):
    """Four black images, of which one has a white box: the first, and the other three."""
    parts = []
    for place, size in enumerate(sizes):
        image = marked(size, box) if place == number else np.zeros((*size, 3), np.uint8)
        boxes = np.array([box], np.float32) if place == number else NOTHING
        parts.append((image, boxes, np.full(len(boxes), place)))
    return parts[0], parts[1:]


def test_without_augmentation_the_whole_image_is_in_the_middle():
    result = sample()
    ratios = np.float32([128 / 180, 85 / 120] * 2)
    np.testing.assert_allclose(result.boxes, BOXES * ratios + np.float32([0, 6] * 2), atol=1e-4)
    assert result.image.shape == (3, 96, 128) and result.image.dtype == np.uint8
    assert not result.image[:, :6].any() and not result.image[:, 91:].any()
    expected = cv2.resize(blurred_noise(3, *SIZE), (128, 85)).transpose(2, 0, 1)
    np.testing.assert_array_equal(result.image[:, 6:91], expected)
    np.testing.assert_array_equal(result.color, NORMALIZE)
    assert result.labels.tolist() == [0, 1] and result.labels.dtype == np.int64


@pytest.mark.parametrize("drawn", DRAWN)
def test_boxes_go_with_the_pixels(drawn):
    """To a twentieth of a pixel, or where the result's edges cut the ramp, to half its length."""
    box, blur = (60, 30, 130, 70), 9
    image, boxes = marked(SIZE, box, blur), np.array([box], np.float32)
    seen, inside = set(), 0
    for seed in range(24):
        rng = np.random.default_rng(seed)
        result = sample_fit(image, boxes, np.zeros(1, int), rng, DRAWN[drawn])
        zoom = abs(np.linalg.det(draw_map(SIZE, DRAWN[drawn], np.random.default_rng(seed))[:, :2]))
        ramp = zoom**0.5 * blur / 2
        if not len(result.boxes) or (result.boxes[0, 2:] - result.boxes[0, :2]).min() < 2 * ramp:
            continue
        whole = result.boxes.min() > ramp and (result.boxes[0, 2:] < (128 - ramp, 96 - ramp)).all()
        inside += whole
        tolerance = 0.05 if whole else ramp
        np.testing.assert_allclose(result.boxes[0], measured(result.image), atol=tolerance)
        seen.add(tuple(result.boxes[0].round(1)))
    assert inside > 1
    few = {"still": 2, "vertical_flip": 4, "quarter_turns": 8}
    assert len(seen) == few.get(drawn, len(seen)) and len(seen) > 1


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("drawn", ["still", "all"])
def test_boxes_go_with_the_pixels_of_a_mosaic(number, drawn):
    sizes = [SIZE, (180, 120), (90, 90), (30, 400)]
    box = (20, 8, 70, 26)
    found = 0
    for seed in range(40):
        (image, boxes, labels), others = one_hot_mosaic(number, box, sizes)
        rng = np.random.default_rng(seed)
        result = sample_fit(image, boxes, labels, rng, DRAWN[drawn], others)
        assert len(result.boxes) or not (result.image > 130).any()
        if not len(result.boxes) or (result.boxes[0, 2:] - result.boxes[0, :2]).min() < 3:
            continue
        assert result.labels.tolist() == [number]
        # Half a pixel where a window ends within a pixel, and edges are sampled.
        np.testing.assert_allclose(result.boxes[0], measured(result.image), atol=0.8)
        found += 1
    assert found > 5


def test_a_mosaic_is_four_images_around_a_point_and_no_gap():
    """Each quarter is the image of its place, and as large as if it were alone."""
    parts = [(np.full((*SIZE, 3), 50 * (n + 1), np.uint8), NOTHING, np.zeros(0)) for n in range(4)]
    settings = replace(STILL, input_size=(120, 180))
    points = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        image = sample_fit(*parts[0], rng, settings, parts[1:]).image[0]
        image = image if image[0, 0] == 50 else image[:, ::-1]
        y, x = (image[:, 0] == 50).sum(), (image[0] == 50).sum()
        expected = np.zeros((120, 180))
        expected[:y, :x], expected[:y, x:] = 50, 100
        expected[y:, :x], expected[y:, x:] = 150, 200
        np.testing.assert_array_equal(image, expected)
        points.append((y, x))
    points = np.array(points) / (120, 180)
    assert points.min() > 0.24 and points.max() < 0.76 and points.std(0).min() > 0.1


def test_any_part_of_an_image_shows_in_a_mosaic():
    parts = [(np.zeros((*SIZE, 3), np.uint8), NOTHING, np.zeros(0))] * 4
    rng, size = np.random.default_rng(0), (120, 180)
    seen = np.zeros((4, 120, 180), int)
    for _ in range(200):
        for place, (_, map_, window) in enumerate(draw_mosaic(parts, size, rng)):
            shown = window[0] - np.tile(map_[:, 2], 2)
            assert shown.min() > -1e-9 and (shown[2:] <= [180 + 1e-9, 120 + 1e-9]).all()
            x0, y0, x1, y1 = shown.round().astype(int)
            seen[place, y0:y1, x0:x1] += 1
    assert seen[:, 2:-2].any(2).all() and seen[:, :, 2:-2].any(1).all()
    assert seen[:, 60, 90].min() > 100


def test_an_image_smaller_than_its_quarter_lies_at_the_point():
    blanks = [np.zeros((*size, 3), np.uint8) for size in ((9, 1), (1, 9))] * 2
    parts = [(blank, NOTHING, np.zeros(0)) for blank in blanks]
    for seed in range(20):
        placed = draw_mosaic(parts, (96, 128), np.random.default_rng(seed))
        edges = [
            map_boxes(np.array([[0, 0, *part[0].shape[1::-1]]]), m)[0] for part, m, _ in placed
        ]
        x, y = placed[0].window[0, 2:]
        np.testing.assert_allclose([edges[0][2], edges[2][2]], x, rtol=1e-6)
        np.testing.assert_allclose([edges[1][3], edges[3][1]], y, rtol=1e-6)


def test_a_map_that_resizes_is_what_the_test_image_is_resized_by():
    for size, fitted in [(SIZE, (64, 96)), ((300, 500), (100, 150)), ((900, 1200), (96, 128))]:
        image = blurred_noise(4, *size)
        map_ = np.array([[fitted[1] / size[1], 0, 0], [0, fitted[0] / size[0], 0]])
        result = np.zeros((*fitted, 3), np.uint8)
        paint_(result, image, map_, np.array([0, 0, fitted[1], fitted[0]]))
        expected = transforms.resize_smoothly(image, fitted).astype(int)
        assert np.abs(result - expected).max() <= 2


@pytest.mark.parametrize("turns", range(4))
def test_a_turn_loses_nothing(turns):
    """At the size that fits, a turned image is np.rot90's, to the rounding."""
    image = blurred_noise(5, 40, 60)
    expected = np.rot90(image, turns)
    settings = replace(STILL, input_size=expected.shape[:2], quarter_turns=True)
    results = []
    for seed in range(40):
        result = sample_fit(image, NOTHING, np.zeros(0), np.random.default_rng(seed), settings)
        results.append(result.image.transpose(1, 2, 0).astype(int))
    differences = [np.abs(result - expected).max() for result in results]
    mirrored = [np.abs(result[:, ::-1] - expected).max() for result in results]
    assert sum(d <= 1 for d in differences) > 0 and sum(d <= 1 for d in mirrored) > 0


def test_turned_images_still_fit():
    """An image that is turned on its side is scaled to fit as it then lies."""
    image, settings = np.full((60, 120, 3), 255, np.uint8), replace(STILL, quarter_turns=True)
    shapes = set()
    for seed in range(20):
        white = sample_fit(image, NOTHING, np.zeros(0), np.random.default_rng(seed), settings)
        seen = white.image[0] > 0
        shapes.add((int(seen.any(1).sum()), int(seen.any(0).sum())))
    assert shapes == {(64, 128), (96, 48)}


def test_zoom_and_shift_are_drawn_from_their_ranges():
    """Zooms evenly by ratio, shifts evenly; both axes have the same zoom."""
    settings, rng = replace(OPTIONS, zoom=(0.5, 2.0)), np.random.default_rng(0)
    maps = np.stack([draw_map(SIZE, settings, rng) for _ in range(2000)])
    zooms = np.log2(np.abs(maps[:, 0, 0]) * 180 / 128)
    np.testing.assert_allclose(np.abs(maps[:, 0, 0]), maps[:, 1, 1])
    middles = maps[:, :, :2] @ np.array([90, 60]) + maps[:, :, 2]
    shifts = middles / (128, 96) - 0.5
    for values, most in ((zooms, 1), (shifts[:, 0], 0.15), (shifts[:, 1], 0.15)):
        assert np.abs(values).max() <= most + 1e-9
        quarters = np.histogram(values, 4, (-most, most))[0]
        assert quarters.min() > 430 and quarters.max() < 570
    assert abs(np.corrcoef(shifts.T)[0, 1]) < 0.1


@pytest.mark.parametrize("vertical", [False, True])
@pytest.mark.parametrize("turns", [False, True])
def test_how_often_images_are_flipped_and_turned(vertical, turns):
    settings, rng = replace(STILL, vertical_flip=vertical, quarter_turns=turns), None
    rng = np.random.default_rng(1)
    kinds: dict[tuple, int] = {}
    for _ in range(1600):
        kind = tuple(np.sign(draw_map(SIZE, settings, rng)[:, :2].round(9)).ravel())
        kinds[kind] = kinds.get(kind, 0) + 1
    expected = 8 if turns else 2 * (1 + vertical)
    assert len(kinds) == expected
    assert min(kinds.values()) > 0.75 * 1600 / expected
    mirrored = sum(n for kind, n in kinds.items() if kind[0] * kind[3] - kind[1] * kind[2] < 0)
    assert 720 < mirrored < 880
    if not turns:
        assert (1, 0, 0, 1) in kinds and ((1, 0, 0, -1) in kinds) == vertical


def random_boxes(rng, count, size):
    points = np.sort(rng.uniform(0, 1, (count, 2, 2)), 1) * size[::-1]
    return points.reshape(-1, 4).astype(np.float32)


def fractions_left(whole, limits):
    """By a loop over the boxes: the fraction of each that lies within its limits."""
    result = []
    for (x0, y0, x1, y1), (left, top, right, bottom) in zip(whole, limits, strict=True):
        width = max(0.0, min(x1, right) - max(x0, left))
        height = max(0.0, min(y1, bottom) - max(y0, top))
        result.append(width * height / ((x1 - x0) * (y1 - y0)))
    return np.array(result)


@pytest.mark.parametrize("least", [0.0, 0.3, 0.5, 1.0])
def test_boxes_of_which_too_little_is_left_are_dropped(least):
    rng, boxes = np.random.default_rng(2), random_boxes(np.random.default_rng(3), 60, SIZE)
    settings = replace(DRAWN["all"], min_visible=least)
    dropped = 0
    for seed in range(10):
        whole = map_boxes(boxes, draw_map(SIZE, settings, np.random.default_rng(seed)))
        left = fractions_left(whole.astype(float), [(0, 0, 128, 96)] * 60)
        rng = np.random.default_rng(seed)
        result = sample(rng, boxes, settings)
        expected = np.flatnonzero((left >= least - 1e-6) & (left > 0))
        assert result.labels.tolist() == expected.tolist()
        dropped += 60 - len(expected)
    assert 20 < dropped < 550


def test_in_a_mosaic_what_is_left_is_a_fraction_of_the_whole_box():
    """Not of the part that its window leaves."""
    settings = replace(DRAWN["all"], min_visible=0.4)
    parts = [
        (blurred_noise(n, *SIZE), random_boxes(np.random.default_rng(n), 40, SIZE), labels)
        for n, labels in enumerate(np.arange(160).reshape(4, 40))
    ]
    both = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        placed = draw_mosaic(parts, settings.input_size, rng)
        view = draw_map(settings.input_size, settings, rng)
        expected = []
        for (_, boxes, labels), map_, window in placed:
            whole = map_boxes(boxes, combine(view, map_)).astype(float)
            limits = map_boxes(window, view)[0].astype(float)
            limits = np.clip(limits, 0, [128, 96, 128, 96])
            left = fractions_left(whole, [limits] * 40)
            expected += labels[left >= 0.4 - 1e-6].tolist()
            both += int(((left > 0) & (left < 0.4)).sum())
        result = sample_fit(*parts[0], np.random.default_rng(seed), settings, parts[1:])
        assert result.labels.tolist() == expected
    assert both > 50


class Unflipped:
    """Draws given numbers, and no flip."""

    def __init__(self, *numbers):
        self.numbers = iter(numbers)

    def integers(self, *limits):
        return next(self.numbers)

    def random(self):
        return 0.9


@pytest.mark.parametrize("make", [sample_corners, sample_centers])
@pytest.mark.parametrize("least", [0.0, 0.3, 0.9])
def test_random_crops_drop_boxes_too(make, least):
    """The crop about (y, x) = (100, 70) is the image, moved by (-20, -50)."""
    boxes = random_boxes(np.random.default_rng(4), 200, (200, 200))
    settings = CropSettings((100, 100), (1.0,), 1, True, False, False, min_visible=least)
    draws, zoom, offset = Unflipped(0, 100, 70), 1, (-20, -50)
    if make is sample_centers:  # its window is the whole image, moved, at half the size
        draws, zoom, offset = Unflipped(0, 170, 30), 0.5, (35, -35)
    whole = boxes.astype(float) * zoom + np.array(offset * 2)
    left = fractions_left(whole, [(0, 0, 100, 100)] * 200)
    as_published = transforms.has_area(transforms.clip_boxes(whole, (100, 100)))
    expected = np.flatnonzero((left >= least) & as_published)
    image = np.zeros((200, 200, 3), np.uint8)
    result = make(image, boxes, np.arange(200), draws, settings)
    assert result.labels.tolist() == expected.tolist()
    assert 20 <= len(expected) <= 160
    np.testing.assert_allclose(
        transforms.clip_boxes(result.boxes, (100, 100)),
        transforms.clip_boxes(whole[result.labels].astype(np.float32), (100, 100)),
        atol=1e-3,
    )


def test_a_box_at_the_edges_is_wholly_visible_and_inside():
    """Its right and lower edges lie in the last cells, however the image is flipped and turned."""
    settings = replace(STILL, min_visible=1.0, vertical_flip=True, quarter_turns=True)
    settings = replace(settings, input_size=(127, 127))
    image, box = blurred_noise(1, 50, 50), np.array([[0, 0, 50, 50]], np.float32)
    for seed in range(30):
        rng = None if seed == 0 else np.random.default_rng(seed)
        result = sample_fit(image, box, np.zeros(1, int), rng, settings)
        np.testing.assert_allclose(result.boxes, [[0, 0, 127, 127]], atol=0.002)
        assert result.boxes.min() >= 0 and result.boxes.max() < 127


def test_rounding_drops_no_box_that_is_wholly_visible():
    settings, rng = replace(STILL, min_visible=1.0), np.random.default_rng(0)
    for size in rng.integers(10, 400, (200, 2)):
        image, box = np.zeros((*size, 3), np.uint8), np.array([[0, 0, *size[::-1]]], np.float32)
        assert len(sample_fit(image, box, np.zeros(1, int), rng, settings).boxes) == 1


def test_no_boxes():
    for others in ((), [(blurred_noise(1, 50, 70), NOTHING, np.zeros(0, int))] * 3):
        for rng in (None, np.random.default_rng(0)):
            result = sample(rng, NOTHING, DRAWN["all"], others)
            assert result.boxes.shape == (0, 4) and result.boxes.dtype == np.float32
            assert result.labels.shape == (0,) and result.labels.dtype == np.int64


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (1, 400), (400, 1)])
@pytest.mark.parametrize("drawn", ["still", "all"])
def test_images_one_pixel_wide(size, drawn):
    image, boxes = np.full((*size, 3), 200, np.uint8), np.array([[0, 0, size[1], size[0]]])
    part = (image, boxes.astype(np.float32), np.zeros(1, int))
    for others in ((), [part] * 3):
        for seed in range(6):
            rng = None if seed == 0 else np.random.default_rng(seed)
            result = sample_fit(*part, rng, DRAWN[drawn], others)
            assert result.image.shape == (3, 96, 128)
            assert np.isfinite(result.boxes).all() and result.boxes.min(initial=0) >= 0
            assert set(np.unique(result.image)) <= {0, 200}
            # Of a long one less than half a pixel may be left, which no pixel shows.
            assert (result.image == 200).any() or max(size) == 400


def test_a_large_image_is_averaged_and_not_skipped():
    """Noise that is shrunk to an eighth has an eighth of its deviation; with gaps, about half."""
    noise = np.random.default_rng(0).integers(0, 256, (768, 1024, 3), np.uint8)
    for rng in (None, np.random.default_rng(1)):
        result = sample_fit(noise, NOTHING, np.zeros(0), rng, STILL)
        assert result.image.astype(float).std() < 0.2 * noise.astype(float).std()


def test_a_sample_depends_on_its_generator_alone_and_changes_no_input():
    image, boxes = blurred_noise(3, *SIZE), BOXES.copy()
    settings = replace(DRAWN["all"], color=True, lighting=True)
    others = [(blurred_noise(n, 90, 70), BOXES[:1] / 4, np.arange(1)) for n in range(3)]
    kept = [part[0].copy() for part in others]
    np.random.seed(3)  # noqa: NPY002 - the state that must stay as it is
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = (
        sample_fit(image, boxes, np.arange(2), np.random.default_rng(seed), settings, others)
        for seed in (5, 5, 6)
    )
    for name in ("image", "boxes", "labels", "color"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert (first.image != other.image).any() and (first.color != other.color).any()
    np.testing.assert_array_equal(image, blurred_noise(3, *SIZE))
    np.testing.assert_array_equal(boxes, BOXES)
    assert all(np.array_equal(part[0], copy) for part, copy in zip(others, kept, strict=True))
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_colours_are_drawn_if_asked_for():
    plain, changed, lit = (
        sample(np.random.default_rng(0), settings=replace(OPTIONS, color=color, lighting=lighting))
        for color, lighting in ((False, True), (True, False), (True, True))
    )
    np.testing.assert_array_equal(plain.color, NORMALIZE)
    np.testing.assert_array_equal(plain.image, changed.image)
    assert (changed.color != NORMALIZE).any() and (changed.color != lit.color).any()


def test_settings_reach_their_places():
    db = Db(
        sampling="fit",
        input_size=(64, 48),
        zoom=(0.7, 1.1),
        shift=0.21,
        min_visible=0.31,
        vertical_flip=True,
        rand_color=False,
    )
    sample = choose_sample(db, sample_corners)
    assert sample.func is sample_fit
    assert sample.keywords["settings"] == FitSettings(
        (64, 48), (0.7, 1.1), 0.21, 0.31, True, False, False, True
    )
    turned = choose_sample(replace(db, vertical_flip=False, quarter_turns=True), sample_corners)
    assert turned.keywords["settings"].quarter_turns
    assert not turned.keywords["settings"].vertical_flip
    still = choose_sample(replace(db, data_aug=False), sample_corners)
    assert still.func is sample_unchanged and still.args[0].func is sample_fit
    crop = choose_sample(replace(db, sampling="crop"), sample_corners)
    assert crop.func is sample_corners and crop.keywords["settings"].min_visible == 0.31
