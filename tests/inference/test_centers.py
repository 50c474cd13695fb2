"""From an image to detections, around a network whose maps are given."""

import numpy as np
import pytest
import torch

from core.data.color import MEAN, STD
from core.decode.centers import decode_images
from core.inference.centers import CenterSettings, Geometry, boxes_in_image, detect_centers
from core.inference.requests import CanvasRequest
from core.structures import CenterMaps
from tests.support.centers_golden import DATA, blocky_noise, meta
from tests.support.inference import run

POST, INF = meta("post_meta"), meta("inf_meta")
KEEP, FIX = Geometry("keep", (512, 512), 128, 4), Geometry("fix", (512, 512), 128, 4)
SETTINGS = {
    "geometry": KEEP,
    "test_scales": (1.0,),
    "test_flipped": False,
    "top_k": 100,
    "kernel": 3,
    "nms": False,
    "nms_algorithm": "exp_soft_nms",
    "nms_threshold": 0.5,
    "max_per_image": 100,
    "reference_scoring": False,
}

NOTHING = -200.0  # a logit whose probability is 0 in float32


def detect(image, network, *, top_k, kernel, **settings):
    """Detections around a ``network`` that gives maps."""
    decoding = {"mirrored": settings["test_flipped"], "top_k": top_k, "kernel": kernel}
    steps = detect_centers(image, settings=CenterSettings(**settings))
    return run(steps, lambda images: decode_images([network(images)], **decoding))


def geometry_of(case):
    return Geometry(case["mode"], (512, 512), 128, 4)


def input_tolerance(case, scale):
    if case["mode"] == "fix":
        return 0.06
    return 1e-5 if scale == 1 else 0.02


def settings_of(case):
    return SETTINGS | {
        "geometry": geometry_of(case),
        "test_scales": case["scales"],
        "test_flipped": case["flip"],
        "nms": case["nms"],
        "top_k": case["K"],
    }


def in_order(rows):
    return rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 5].round(4), rows[:, 0]))]


def drawn_maps(images, seed, mean):
    """The maps that the golden data describe by a seed."""
    rng, (batch, _, height, width) = np.random.default_rng(seed), images.shape
    shape = (height // 4, width // 4)
    heatmap = rng.standard_normal((batch, 5, *shape)) * 2 - 3
    size = rng.standard_normal((batch, 2, *shape)) * 3 + mean
    offset = rng.random((batch, 2, *shape))
    maps = (heatmap, size, offset)
    return CenterMaps(*(torch.from_numpy(map_.astype(np.float32)) for map_ in maps))


def one_peak(label=1, size=(4.0, 6.0), logit=2.0, at=(5, 9)):
    """A network that finds one object, at cell (y, x) of the image and mirrored in its mirror."""

    def predict(images):
        batch, height, width = len(images), images.shape[2] // 4, images.shape[3] // 4
        heatmap = torch.full((batch, 3, height, width), NOTHING)
        sizes = torch.zeros(batch, 2, height, width)
        sizes += torch.tensor(size)[:, None, None]
        heatmap[0, label, at[0], at[1]] = logit
        if batch == 2:
            heatmap[1, label, at[0], width - 1 - at[1]] = logit
        return CenterMaps(heatmap, sizes, torch.full((batch, 2, height, width), 0.5))

    return predict


def test_the_normalisation_is_that_of_the_reference():
    np.testing.assert_allclose(MEAN, DATA["post_mean"])
    np.testing.assert_allclose(STD, DATA["post_std"])


@pytest.mark.parametrize("number", range(len(POST)))
def test_golden_geometry(number):
    case = POST[number]
    image = blocky_noise(case["image_seed"], *case["hw"])
    kept = image.copy()
    for row, expected in enumerate(case["passes"]):
        scale, name = expected["scale"], f"post_case{number}_{row}"
        view = geometry_of(case).view(image, scale)
        request = CanvasRequest(view.canvas, case["flip"])
        images = request.batch([request], torch.device("cpu"))
        assert list(images.shape) == expected["in_shape"]
        assert list(view.center[::-1]) == expected["c"]
        tolerance = input_tolerance(case, scale)
        np.testing.assert_allclose(images[:, :, ::16, ::16], DATA[f"{name}_in"], atol=tolerance)
        given = DATA[f"{name}_dets"][0]
        assert list(view.cells) == expected["out_hw"]
        boxes = boxes_in_image(given[:, :4], view)
        order = np.argsort(given[:, 5], kind="stable")
        out = DATA[f"{name}_out"]
        np.testing.assert_array_equal(given[order, 5] + 1, out[:, 0])
        np.testing.assert_allclose(boxes[order], out[:, 1:5], atol=1e-2)
        np.testing.assert_array_equal(given[order, 4], out[:, 5])
    np.testing.assert_array_equal(image, kept)


@pytest.mark.parametrize("number", range(len(INF)))
def test_golden_detections(number):
    case, calls = INF[number], []
    image = blocky_noise(case["image_seed"], *case["hw"])

    def predict(images):
        row, expected = len(calls), case["passes"][len(calls)]
        assert list(images.shape) == expected["in_shape"]
        tolerance = input_tolerance(case, case["scales"][row])
        wanted = DATA[f"inf_case{number}_in_{row}"]
        np.testing.assert_allclose(images[:, :, ::16, ::16], wanted, atol=tolerance)
        maps = drawn_maps(images, expected["map_seed"], case["wh_mean"])
        np.testing.assert_allclose(maps.heatmap.flatten()[:3], expected["hm_first"], rtol=1e-6)
        calls.append(maps)
        return maps

    found = detect(image, predict, **settings_of(case) | {"reference_scoring": True})
    assert len(calls) == len(case["scales"])
    actual = in_order(np.column_stack([found.labels + 1, found.boxes, found.scores]))
    expected = in_order(DATA[f"inf_case{number}_out"])
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(actual[:, 0], expected[:, 0])
    np.testing.assert_allclose(actual[:, 1:5], expected[:, 1:5], atol=1e-2)
    np.testing.assert_allclose(actual[:, 5], expected[:, 5], atol=1e-4)


def detect_golden(number, **changes):
    case, rows = INF[number], iter(INF[number]["passes"])

    def predict(images):
        return drawn_maps(images, next(rows)["map_seed"], case["wh_mean"])

    image = blocky_noise(case["image_seed"], *case["hw"])
    return detect(image, predict, **settings_of(case) | changes)


@pytest.mark.parametrize("number", [2, 3])
def test_suppressed_rows_are_dropped_by_default(number):
    exact = detect_golden(number, max_per_image=10**6)
    reference = detect_golden(number, max_per_image=10**6, reference_scoring=True)
    assert len(exact) < len(reference) or number == 2  # there nothing is suppressed altogether
    assert (exact.scores >= 0.001).all()
    kept = {tuple(row) for row in np.column_stack([reference.boxes, reference.scores])}
    assert {tuple(row) for row in np.column_stack([exact.boxes, exact.scores])} <= kept


def test_detections_are_sorted_and_typed():
    found = detect_golden(1)
    assert (np.diff(found.scores) <= 0).all() and len(found) == 100
    dtypes = (found.boxes.dtype, found.scores.dtype, found.labels.dtype)
    assert dtypes == (np.float32, np.float32, np.int64)


@pytest.mark.parametrize("flipped", [False, True])
def test_one_object_kept_at_its_size(flipped):
    # 100 x 60 in the middle of 128 x 128: 14 pixels above, 34 to the left.
    image = np.full((100, 60, 3), 128, np.uint8)
    found = detect(image, one_peak(), **SETTINGS | {"test_flipped": flipped})
    center = np.array([9.5, 5.5]) * 4 - [34, 14]
    half = np.array([8, 12])
    expected = [[*(center - half), *(center + half)]]
    np.testing.assert_allclose(found.boxes, expected, atol=1e-4)
    assert found.labels.tolist() == [1]
    np.testing.assert_allclose(found.scores, torch.tensor(2.0).sigmoid(), atol=1e-6)


def test_one_object_in_a_fixed_canvas():
    image = np.full((100, 60, 3), 128, np.uint8)
    geometry = Geometry("fix", (64, 64), 32, 4)
    found = detect(image, one_peak(), **SETTINGS | {"geometry": geometry})
    pixel = 100 / 64
    center, half = (np.array([9.5, 5.5]) * 4 - 32) * pixel + [30, 50], np.array([8, 12]) * pixel
    expected = [[*(center - half), *(center + half)]]
    np.testing.assert_allclose(found.boxes, expected, atol=1e-4)


def test_a_mirror_image_that_finds_nothing_halves_the_score():
    def predict(images):
        maps = one_peak()(images)
        maps.heatmap[1] = NOTHING
        return maps

    image = np.full((64, 64, 3), 128, np.uint8)
    found = detect(image, predict, **SETTINGS | {"test_flipped": True})
    np.testing.assert_allclose(found.scores, torch.tensor(2.0).sigmoid() / 2, atol=1e-6)


def test_boxes_without_area_are_the_reference_s_alone():
    image = np.full((64, 64, 3), 128, np.uint8)
    predict = one_peak(size=(4.0, -1.0))
    assert len(detect(image, predict, **SETTINGS)) == 0
    found = detect(image, predict, **SETTINGS | {"reference_scoring": True})
    assert len(found) == 1 and found.boxes[0, 3] < found.boxes[0, 1]


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0)])
def test_nothing_found(scales):
    image = np.full((64, 64, 3), 128, np.uint8)
    settings = SETTINGS | {"test_scales": scales}
    found = detect(image, one_peak(logit=NOTHING), **settings)
    assert found.boxes.shape == (0, 4) and found.labels.dtype == np.int64


def test_at_most_max_per_image():
    assert len(detect_golden(0, max_per_image=7)) == 7
    assert len(detect_golden(0, top_k=5)) == 5


def test_maps_are_not_changed():
    maps = drawn_maps(torch.zeros(2, 3, 128, 128), 1, 8)
    kept = [map_.clone() for map_ in maps]
    image = np.full((64, 64, 3), 128, np.uint8)
    detect(image, lambda images: maps, **SETTINGS | {"test_flipped": True})
    assert all(torch.equal(map_, clone) for map_, clone in zip(maps, kept, strict=True))


@pytest.mark.parametrize("size", [(1, 1), (127, 128), (128, 255), (3, 700)])
def test_a_kept_image_has_its_middle_in_the_middle(size):
    image = np.random.default_rng(1).integers(1, 256, (*size, 3)).astype(np.uint8)
    view = Geometry("keep", (512, 512), 32, 4).view(image, 1)
    height, width = view.canvas.shape[:2]
    assert (height, width) == tuple((side | 31) + 1 for side in size)
    top, left = height // 2 - size[0] // 2, width // 2 - size[1] // 2
    np.testing.assert_array_equal(view.canvas[top : top + size[0], left : left + size[1]], image)
    assert (view.canvas > 0).sum() == image.size
    corners = np.array([[left / 4, top / 4, (left + size[1]) / 4, (top + size[0]) / 4]], np.float32)
    boxes = boxes_in_image(corners, view)
    np.testing.assert_allclose(boxes, [[0, 0, size[1], size[0]]], atol=1e-3)
