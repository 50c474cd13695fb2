"""From an image to detections, around a network whose output is given."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from core.inference.corners import CornerSettings, detect_corners, lay_out
from core.inference.requests import CanvasRequest
from tests.support.inference import run

GOLDEN = Path(__file__).parents[1] / "golden" / "inference.npz"
META = json.loads(str(np.load(GOLDEN)["meta"]))
SETTINGS = CornerSettings(
    test_scales=(1.0,),
    test_flipped=False,
    nms_algorithm="exp_soft_nms",
    nms_threshold=0.5,
    merge_bbox=False,
    weight_exp=8.0,
    max_per_image=100,
    reference_scoring=False,
    stride=4,
)


def blocky_noise(seed, height, width):
    low = np.random.default_rng(seed).integers(
        0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.int64
    )
    return low.repeat(8, 0).repeat(8, 1)[:height, :width].astype(np.uint8)


def gray(height, width):
    return np.full((height, width, 3), 128, np.uint8)


def given(*rows):
    """A predict that finds these rows in every image that it gets."""
    decoded = torch.tensor(rows, dtype=torch.float32).reshape(1, -1, 8)
    return lambda images: decoded.expand(len(images), -1, -1).clone()


def settings_of(meta, reference_scoring):
    given = {key: meta[key] for key in vars(SETTINGS) if key in meta}
    return CornerSettings(**given, reference_scoring=reference_scoring)


def in_order(rows):
    return rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 5].round(4), rows[:, 0]))]


@pytest.mark.parametrize("case", range(len(META)))
def test_equals_the_reference(case):
    golden, meta = np.load(GOLDEN), META[case]
    image = blocky_noise(meta["image_seed"], *meta["hw"])
    untouched = image.copy()
    calls = []

    def predict(images):
        calls.append(images.numpy().copy())
        return torch.from_numpy(golden[f"case{case}_dets_{len(calls) - 1}"])

    found = run(detect_corners(image, settings=settings_of(meta, reference_scoring=True)), predict)
    np.testing.assert_array_equal(image, untouched)
    assert len(calls) == len(meta["test_scales"])
    for number, (images, scale) in enumerate(zip(calls, meta["test_scales"], strict=True)):
        assert images.dtype == np.float32
        assert images.shape == tuple(golden[f"case{case}_inshape_{number}"])
        tolerance = 1e-5 if scale == 1 else 0.02
        expected = golden[f"case{case}_in_{number}"]
        np.testing.assert_allclose(images[:, :, ::16, ::16], expected, atol=tolerance)
    actual = in_order(np.column_stack([found.labels + 1, found.boxes, found.scores]))
    expected = in_order(golden[f"case{case}_out"])
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(actual[:, 0], expected[:, 0])
    np.testing.assert_allclose(actual[:, 1:5], expected[:, 1:5], atol=1e-2)
    np.testing.assert_allclose(actual[:, 5], expected[:, 5], atol=1e-4)


@pytest.mark.parametrize("case", range(len(META)))
def test_suppressed_rows_are_dropped_by_default(case):
    golden, meta = np.load(GOLDEN), META[case]
    image = blocky_noise(meta["image_seed"], *meta["hw"])

    def find(reference_scoring):
        passes = (torch.from_numpy(golden[f"case{case}_dets_{s}"]) for s in range(5))
        settings = replace(settings_of(meta, reference_scoring), max_per_image=10**6)
        return run(detect_corners(image, settings=settings), lambda images: next(passes))

    exact, reference = find(False), find(True)
    assert len(exact) <= len(reference)
    assert (exact.scores >= 0.001).all()
    if not meta["merge_bbox"]:
        kept = {tuple(row) for row in np.column_stack([reference.boxes, reference.scores])}
        assert {tuple(row) for row in np.column_stack([exact.boxes, exact.scores])} <= kept


def test_detections_are_sorted_and_typed():
    rows = [
        [8 * n, 8, 8 * n + 4, 12, score, 1, 1, n % 2] for n, score in enumerate((0.2, 0.9, 0.5))
    ]
    found = run(detect_corners(gray(127, 127), settings=SETTINGS), given(*rows))
    np.testing.assert_allclose(found.scores, [0.9, 0.5, 0.2])
    assert found.labels.tolist() == [1, 0, 0]
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (
        np.float32,
        np.float32,
        np.int64,
    )


def test_boxes_come_back_to_pixels_of_the_image():
    # 100 x 60 goes into the middle of 127 x 127: 13 pixels above, 33 to the left.
    cells = np.array([33 + 5, 13 + 10, 33 + 45, 13 + 70], np.float32) * 32 / 127
    found = run(detect_corners(gray(100, 60), settings=SETTINGS), given([*cells, 0.8, 1, 1, 2]))
    np.testing.assert_allclose(found.boxes, [[5, 10, 45, 70]], atol=1e-4)


def test_the_mirror_image_finds_mirrored_boxes():
    right = [20, 4, 28, 12, 0.9, 1, 1, 0]
    mirrored = [32 - 28, 4, 32 - 20, 12, 0.7, 1, 1, 1]

    def predict(images):
        assert torch.equal(images[1], images[0].flip(2))
        return torch.tensor([[right], [mirrored]], dtype=torch.float32)

    found = run(
        detect_corners(gray(127, 127), settings=replace(SETTINGS, test_flipped=True)), predict
    )
    assert found.labels.tolist() == [0, 1]
    np.testing.assert_allclose(found.boxes[0], found.boxes[1], atol=1e-4)


def test_boxes_are_clipped_to_the_image():
    settings = replace(SETTINGS, test_scales=(1.5,))
    predict = given([-9, -9, 99, 99, 0.8, 1, 1, 0])
    found = run(detect_corners(gray(90, 40), settings=settings), predict)
    np.testing.assert_allclose(found.boxes, [[0, 0, 40, 90]], atol=1e-4)


@pytest.mark.parametrize("rows", [[], [[0, 0, 4, 4, -1, 1, 1, 0]]], ids=["none", "all rejected"])
def test_nothing_found(rows):
    found = run(detect_corners(gray(64, 64), settings=SETTINGS), given(*rows))
    assert len(found) == 0
    assert found.boxes.shape == (0, 4) and found.labels.dtype == np.int64


def test_at_most_max_per_image():
    rows = [[n, n, n + 1, n + 1, 0.9 - 0.01 * n, 1, 1, n % 3] for n in range(30)]
    settings = replace(SETTINGS, max_per_image=7)
    found = run(detect_corners(gray(127, 127), settings=settings), given(*rows))
    np.testing.assert_allclose(found.scores, [0.9 - 0.01 * n for n in range(7)], atol=1e-6)


def test_predicted_tensor_is_not_changed():
    decoded = torch.tensor([[[4, 4, 8, 8, 0.5, 1, 1, 0]]] * 2, dtype=torch.float32)
    before = decoded.clone()
    settings = replace(SETTINGS, test_flipped=True)
    run(detect_corners(gray(64, 64), settings=settings), lambda images: decoded)
    assert torch.equal(decoded, before)


@pytest.mark.parametrize("size", [(1, 1), (127, 127), (128, 255), (3, 700)])
def test_canvas_holds_the_whole_image_in_its_middle(size):
    image = np.random.default_rng(1).integers(1, 256, (*size, 3)).astype(np.uint8)
    view = lay_out(image, 1.0)
    canvas, (top, left) = view.canvas, view.corner
    assert view.size == size
    assert [side % 128 for side in canvas.shape[:2]] == [127, 127]
    inside = canvas[top : top + size[0], left : left + size[1]]
    np.testing.assert_array_equal(inside, image)
    assert (canvas > 0).sum() == image.size
    margins = [(canvas.shape[0] - size[0]) - 2 * top, (canvas.shape[1] - size[1]) - 2 * left]
    assert all(abs(margin) <= 1 for margin in margins)


def test_a_tiny_scale_leaves_one_pixel():
    assert lay_out(gray(3, 200), 0.1).size == (1, 20)


def test_normalized_padding_is_black():
    images = CanvasRequest.batch(
        [CanvasRequest(np.zeros((127, 127, 3), np.uint8), True)], torch.device("cpu")
    )
    assert images.shape == (2, 3, 127, 127)
    expected = [-0.40789654 / 0.28863828, -0.44719302 / 0.27408164, -0.47026115 / 0.27809835]
    np.testing.assert_allclose(images[1, :, 0, 0], expected, rtol=1e-5)
