"""Images that are tested as they are trained with ``db.sampling`` "fit": there and back."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from core.config.schema import Db
from core.data.samples.fit import FitSettings, sample_fit
from core.inference.canvas import fit_in_canvas
from core.inference.centers import Geometry, boxes_in_image
from core.inference.corners import CornerSettings, detect_corners, lay_out, rows_in_image
from core.structures import collate
from core.targets.centers import center_targets
from core.targets.corners import corner_targets
from tests.support.centers_golden import blocky_noise
from tests.support.inference import run

# Sides of the training images, pixels per cell, and pixels per cell of the coarsest map.
GEOMETRIES = [
    ((384, 512), 8, 64),
    ((383, 511), 8, 64),
    ((381, 509), 8, 64),
    ((192, 128), 4, 32),
    ((127, 255), 4, 128),
]
WHOLE = (480, 640), (90, 120), (1200, 1601)  # as wide as the input, about
SIZES = [*WHOLE, (640, 480), (333, 1000), (77, 50), (1, 40), (13, 1)]
RENDERED = {"num_classes": 1, "gaussian_bump": True, "gaussian_iou": 0.3, "gaussian_radius": -1}


def random_boxes(count, size):
    points = np.sort(np.random.default_rng(count).uniform(0, 1, (count, 2, 2)), 1) * size[::-1]
    points[0] = [[0, 0], size[::-1]]
    return points.reshape(-1, 4).astype(np.float32)


def trained(image, boxes, input_size):
    """The image as training sees it without augmentation."""
    settings = FitSettings.of(Db(input_size=input_size, sampling="fit"))
    sample = sample_fit(image, boxes, np.zeros(len(boxes), int), None, settings)
    assert len(sample.boxes) == len(boxes)
    return sample


def cells_of(input_size, stride):
    return tuple(-(-side // stride) for side in input_size)


def trained_corners(boxes, input_size, stride):
    """Cells plus offsets of the targets of corners: float32 [n, 4]."""
    size = cells_of(input_size, stride)
    blank = np.zeros((*input_size, 3), np.uint8)
    sample = replace(trained(blank, boxes[:0], input_size), boxes=boxes, labels=boxes[:, 0] * 0)
    targets = corner_targets(collate([sample], [0]), output_size=size, **RENDERED)
    points = []
    for index, offset in (
        (targets.tl_index[0], targets.tl_offset[0]),
        (targets.br_index[0], targets.br_offset[0]),
    ):
        assert (index < size[0] * size[1]).all()
        points.append(torch.stack((index % size[1], index // size[1]), 1) + offset)
    return torch.cat(points, 1).numpy()


@pytest.mark.parametrize(("input_size", "stride", "coarsest"), GEOMETRIES)
@pytest.mark.parametrize("size", SIZES)
def test_corners_come_back_as_they_were_trained(input_size, stride, coarsest, size):
    """Of the image and of its mirror image, by less than a twentieth of its pixels."""
    image, boxes = np.zeros((*size, 3), np.uint8), random_boxes(50, size)
    sample, view = trained(image, boxes, input_size), lay_out(image, 1.0, input_size, coarsest)
    mirrored = sample.boxes.copy()
    mirrored[:, [0, 2]] = input_size[1] - sample.boxes[:, [2, 0]]
    mirrored = np.minimum(mirrored, np.float32([*input_size[::-1]] * 2) - np.float32(0.001))
    decoded = np.zeros((2, 50, 8), np.float32)
    for row, trained_boxes in enumerate((sample.boxes, mirrored)):
        decoded[row, :, :4] = trained_corners(trained_boxes, input_size, stride)
    # From the canvas of the input's size to the view's, which is no larger than it needs to be.
    height, width = view.canvas.shape[:2]
    cells = np.array(cells_of(input_size, stride)) / input_size
    own = np.array(cells_of((height, width), stride)) / (height, width)
    top, left = (input_size[n] // 2 - view.size[n] // 2 - view.corner[n] for n in range(2))
    for row, x in enumerate((left, input_size[1] - width - left)):
        pixels = decoded[row, :, :4] / np.tile(cells[::-1], 2) - (x, top, x, top)
        decoded[row, :, :4] = pixels * np.tile(own[::-1], 2)
    found = rows_in_image(decoded, view, stride)[:, :4].reshape(2, 50, 4)
    zoom = min(view.scale)
    for boxes_found in found:
        np.testing.assert_allclose(boxes_found, boxes, atol=max(0.05, 0.002 / zoom))
    assert (top, left) == (0, 0) or (height, width) != input_size


@pytest.mark.parametrize(("input_size", "stride", "coarsest"), GEOMETRIES)
@pytest.mark.parametrize("size", SIZES)
def test_the_test_image_is_the_training_image(input_size, stride, coarsest, size):
    """Pixel by pixel, without some of the black around it."""
    image = blocky_noise(2, *size) // 2 + 100
    view = lay_out(image, 1.0, input_size, coarsest)
    sample = trained(image, np.zeros((0, 4), np.float32), input_size).image.transpose(1, 2, 0)
    (height, width), (top, left) = view.canvas.shape[:2], view.corner
    assert height <= input_size[0] and width <= input_size[1]
    lit = np.argwhere(sample.any(2))
    y, x = lit.min(0)
    shown = view.canvas[top : top + view.size[0], left : left + view.size[1]]
    np.testing.assert_array_equal(shown, sample[y : y + view.size[0], x : x + view.size[1]])
    assert np.array_equal(lit.max(0) + 1 - lit.min(0), view.size)
    assert (view.canvas > 0).sum() == shown.size
    # A network can halve and double it, and its cells lie as on the training images.
    for side, trained_side in zip((height, width), input_size, strict=True):
        assert (side - trained_side) % coarsest == 0
        assert -(-side // stride) % (coarsest // stride) == 0
        assert min(side - trained_side, 0) > -trained_side


@pytest.mark.parametrize(
    ("scale", "expected"),
    [(1.0, (384, 512)), (0.5, (192, 256)), (1.5, (576, 768)), (0.001, (1, 1))],
)
def test_test_scales_are_relative_to_the_size_that_fits(scale, expected):
    image = np.zeros((960, 1280, 3), np.uint8)
    canvas, corner, size = fit_in_canvas(image, scale, (384, 512), 64)
    assert size == expected
    assert canvas.shape[:2] == tuple(-(-side // 64) * 64 for side in expected)
    middle = [canvas.shape[n] // 2 - size[n] // 2 for n in range(2)]
    assert list(corner) == middle


def test_a_large_test_image_is_averaged_and_not_skipped():
    noise = np.random.default_rng(0).integers(0, 256, (768, 1024, 3), np.uint8)
    canvas, _, _ = fit_in_canvas(noise, 1.0, (96, 128), 32)
    assert canvas.astype(float).std() < 0.2 * noise.astype(float).std()
    # One of up to twice the size is resized as ever.
    canvas, _, _ = fit_in_canvas(noise, 1.0, (512, 680), 8)
    np.testing.assert_array_equal(canvas[1:-1, :], cv2.resize(noise, (680, 510)))


def test_detections_of_several_scales_and_of_the_mirror_image_agree():
    """Around a network that finds one object where it is, at every scale."""
    image, box = np.zeros((300, 500, 3), np.uint8), np.array([100, 50, 400, 250])
    sizes = []

    def predict(images):
        sizes.append(tuple(images.shape[2:]))
        height, width = sizes[-1]
        zoom = 160 / 500 * (0.5, 1.0, 2.0)[len(sizes) - 1]
        fitted = 300 * zoom, 500 * zoom
        left, top = width // 2 - round(fitted[1]) // 2, height // 2 - round(fitted[0]) // 2
        cells = (box * zoom + [left, top, left, top]) / 8
        mirrored = [width / 8 - cells[2], cells[1], width / 8 - cells[0], cells[3]]
        rows = [[*cells, 0.9, 1, 1, 0], [*mirrored, 0.8, 1, 1, 1]]
        return torch.tensor(rows, dtype=torch.float32)[:, None]

    settings = CornerSettings(
        test_scales=(0.5, 1.0, 2.0),
        test_flipped=True,
        nms_algorithm="nms",
        nms_threshold=0.9,
        merge_bbox=False,
        weight_exp=8.0,
        max_per_image=100,
        reference_scoring=False,
        stride=8,
        fit_size=(128, 160),
        coarsest_stride=32,
    )
    found = run(detect_corners(image, settings=settings), predict)
    assert sizes == [(64, 96), (96, 160), (192, 320)]
    assert found.labels.tolist() == [0, 1]
    np.testing.assert_allclose(found.boxes, [box, box], atol=0.05)


@pytest.mark.parametrize(("input_size", "stride", "coarsest"), GEOMETRIES)
@pytest.mark.parametrize("size", WHOLE)
@pytest.mark.parametrize("resolution", ["fit", "fix"])
def test_centers_come_back_as_they_were_trained(input_size, stride, coarsest, size, resolution):
    image, boxes = np.zeros((*size, 3), np.uint8), random_boxes(50, size)
    view = Geometry(resolution, input_size, coarsest, stride).view(image, 1.0)
    if resolution == "fit":
        sample = trained(image, boxes, input_size)
        if view.canvas.shape[:2] != input_size:  # tested above
            return
    else:
        zoom = 1 / view.pixel
        middle = np.array([*view.center[::-1]] * 2)
        moved = (boxes - middle) * zoom + np.array([input_size[1] / 2, input_size[0] / 2] * 2)
        sample = replace(trained(image, boxes, input_size), boxes=moved.astype(np.float32))
    targets = center_targets(
        collate([sample], [0]), output_size=cells_of(input_size, stride), **RENDERED
    )
    width = view.cells[1]
    index = targets.index[0]
    center = torch.stack((index % width, index // width), 1) + targets.offset[0]
    half = targets.size[0] / 2
    found = boxes_in_image(torch.cat((center - half, center + half), 1).numpy(), view)
    # The targets lose the last cell's right and lower part, as published.
    limits = np.array([view.cells[1] - 1, view.cells[0] - 1])
    inside = (sample.boxes[:, 2:] < limits * np.array(input_size[::-1]) / view.cells[::-1]).all(1)
    assert inside.sum() > 30
    np.testing.assert_allclose(found[inside], boxes[inside], atol=0.05)
    assert found.shape == (50, 4)
