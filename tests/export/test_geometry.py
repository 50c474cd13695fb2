"""The sizes of canvases that a file is said to take are those that images are laid out in."""

import numpy as np
import pytest

from core.export.geometry import canvas_size, stride_of, varying_sides
from core.export.graph import settings_of
from tests.support.model_builders import small_detector

SIZES = [(1, 1), (40, 300), (127, 128), (129, 255), (256, 511), (700, 333)]
CASES = {
    "CornerNet": {},
    "CornerNet_Lite0": {"sampling": "fit"},
    "CenterNet": {"test_resolution": "keep"},
    "CenterNet-resnet18": {"sampling": "fit"},
}


@pytest.mark.parametrize("name", CASES)
def test_every_canvas_is_one_that_is_taken(name):
    settings = settings_of(small_detector(name, **CASES[name]), name)
    reached = []
    for size in SIZES:
        canvas = canvas_size(settings, size)
        for length, side in zip(canvas, varying_sides(settings), strict=True):
            assert (length + side.lacking) % side.step == 0 and side.least <= length <= side.most
            assert not side.fixed
            reached.append(length == side.least)
    assert any(reached) or "sampling" in CASES[name]


def test_no_side_has_more_cells_than_pooling_can_take():
    settings = settings_of(small_detector("CornerNet"), "CornerNet")
    side = varying_sides(settings)[0]
    assert side.most == 4095 and stride_of(settings) == 4


@pytest.mark.parametrize(
    "name, settings", [("CenterNet", {"test_resolution": "fix"}), ("CornerNet_Saccade", {})]
)
def test_images_of_one_size(name, settings):
    settings = settings_of(small_detector(name, **settings), name)
    assert canvas_size(settings, (300, 20)) == (63, 47)
    height, width = varying_sides(settings)
    assert height.fixed and width.fixed and (height.least, width.most) == (63, 47)
    assert np.prod(stride_of(settings)) == 4
