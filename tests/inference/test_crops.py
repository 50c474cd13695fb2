"""Views of an image: positions and content."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from core.inference.crops import cut_crops, plan_crops
from tests.support.saccade_golden import INFERENCE, blocky_noise

VIEW = (255, 255)


def one_by_one(image, crops, view_size):
    """The views, each resized by PyTorch."""
    views = torch.zeros(len(crops), 3, *view_size, dtype=torch.float64)
    planes = image.permute(2, 0, 1).double()
    for view, start, stop, seen_start, seen_stop in zip(
        views, crops.start, crops.stop, crops.seen_start, crops.seen_stop, strict=True
    ):
        window = planes[None, :, start[0] : stop[0], start[1] : stop[1]]
        size = tuple(int(side) for side in seen_stop - seen_start)
        resized = F.interpolate(window, size=size, mode="bilinear")[0]
        view[:, seen_start[0] : seen_stop[0], seen_start[1] : seen_stop[1]] = resized
    return views


def test_equals_the_reference():
    seed, height, width = INFERENCE["prep_image_seed"].tolist()
    image = torch.from_numpy(blocky_noise(seed, height, width))
    kept = image.clone()
    crops = plan_crops(INFERENCE["prep_locs"], (height, width), VIEW)
    np.testing.assert_array_equal(crops.offsets, INFERENCE["prep_offsets"])
    views = cut_crops(image, crops, VIEW) / 255
    assert views.dtype == torch.float32 and views.is_contiguous()
    np.testing.assert_allclose(views[:, :, ::7, ::11], INFERENCE["prep_images_sub"], atol=1e-6)
    sums = views.double().sum((1, 2, 3))
    np.testing.assert_allclose(sums, INFERENCE["prep_images_sum"], rtol=1e-6)
    assert torch.equal(image, kept)


def test_windows_of_the_first_round():
    longest, sizes, windows = INFERENCE["first_crop_sizes"].T
    scales = (sizes / longest).astype(np.float32).astype(np.float64)
    locations = np.stack((longest // 2, longest // 2, scales), 1)
    for side, row, window in zip(longest, locations, windows, strict=True):
        crops = plan_crops(row[None], (int(side), int(side)), VIEW)
        assert (crops.offsets == side // 2 - window // 2).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (2, 3), (90, 120)])
@pytest.mark.parametrize("view_size", [(255, 255), (63, 127), (64, 64)])
def test_any_location_of_any_image(size, view_size):
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(1, 256, (*size, 3)).astype(np.uint8))
    points = rng.uniform(-0.5, 1.5, (40, 2)) * size
    locations = np.column_stack((points, 10 ** rng.uniform(-2.5, 3, 40)))
    crops = plan_crops(locations, size, view_size)
    assert (crops.start >= 0).all() and (crops.stop <= size).all()
    assert (crops.stop > crops.start).all()
    assert (crops.seen_start >= 0).all() and (crops.seen_stop <= view_size).all()
    assert (crops.seen_stop > crops.seen_start).all()
    views = cut_crops(image, crops, view_size)
    torch.testing.assert_close(
        views.double(), one_by_one(image, crops, view_size), atol=1e-3, rtol=0
    )


def test_points_come_back():
    """A mark in the image is found in the view where scale and offset say."""
    image = np.zeros((300, 400, 3), np.uint8)
    image[140:144, 222:226] = 255
    locations = np.array([[150.0, 210, 2], [100, 200, 1], [142, 224, 4], [160, 190, 0.7]])
    crops = plan_crops(locations, (300, 400), VIEW)
    for number, view in enumerate(cut_crops(torch.from_numpy(image), crops, VIEW)):
        marked = (view[0] / view[0].sum()).double()
        middle = [(marked.sum(1 - axis) * torch.arange(255)).sum().item() for axis in range(2)]
        point = (np.array(middle) + 0.5) / crops.scales[number] + crops.offsets[number]
        np.testing.assert_allclose(point, [142, 224], atol=1.5)


def test_views_together_equal_each_alone():
    image = torch.from_numpy(blocky_noise(4, 100, 80))
    locations = np.array([[20.0, 30, 1.5], [70, 60, 3], [50, 50, 0.8]])
    together = cut_crops(image, plan_crops(locations, (100, 80), VIEW), VIEW)
    for row, view in zip(locations, together, strict=True):
        alone = cut_crops(image, plan_crops(row[None], (100, 80), VIEW), VIEW)
        assert torch.equal(alone[0], view)


def test_no_view():
    crops = plan_crops(np.zeros((0, 4)), (100, 80), VIEW)
    image = torch.zeros(100, 80, 3, dtype=torch.uint8)
    assert len(crops) == 0 and cut_crops(image, crops, VIEW).shape == (0, 3, 255, 255)
