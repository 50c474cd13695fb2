"""Code that was written for CornerNet-Lite runs as it is, on weights where that looks for them."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import cpools_ext
from core import detectors
from core.config.errors import UserError
from core.evaluation.draw import class_color
from core.vis_utils import draw_bboxes
from tests.support.detections import NAMES, found
from tests.support.tiny_detector import write_config, write_snapshot

IMAGE = np.random.default_rng(0).integers(0, 256, (70, 90, 3)).astype(np.uint8)
# What the reference's README says to write, under other names of variables.
SCRIPT = """
import cv2
from core.detectors import {name}
from core.vis_utils import draw_bboxes

find = {name}()
photo = cv2.imread("demo.jpg")

boxes = find(photo)
drawn = draw_bboxes(photo, boxes)
cv2.imwrite("demo_out.jpg", drawn)
"""


def write_detector(root: Path, iteration: int, name: str = "CornerNet") -> Path:
    """Writes config and weights of a small CornerNet under the name of a published detector."""
    write_config(root, name, categories=3)
    return write_snapshot(root, iteration, NAMES, name, seed=20)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder to run in, with configs and weights of its own."""
    monkeypatch.chdir(tmp_path)
    write_detector(tmp_path, 500_000)
    cv2.imwrite("demo.jpg", IMAGE, [cv2.IMWRITE_JPEG_QUALITY, 100])
    return tmp_path


def test_the_script_of_the_readme(clone):
    names = {}
    exec(SCRIPT.format(name="CornerNet"), names)
    boxes = names["boxes"]
    assert type(boxes) is dict and tuple(boxes) == NAMES
    assert sum(map(len, boxes.values())) and all(rows.shape[1] == 5 for rows in boxes.values())
    assert cv2.imread("demo_out.jpg").shape == IMAGE.shape


def test_each_class_loads_the_config_of_its_name(clone, monkeypatch):
    loaded = []
    monkeypatch.setattr(detectors, "load_detector", lambda *given: loaded.append(given))
    for name in ("CornerNet", "CornerNet_Squeeze", "CornerNet_Saccade"):
        getattr(detectors, name)()
    files = Path("cache", "nnet", "CornerNet", "CornerNet_500000.pkl")
    assert [(name, path and Path(path).name) for name, path in loaded] == [
        ("CornerNet", files.name),
        ("CornerNet_Squeeze", None),
        ("CornerNet_Saccade", None),
    ]


def test_the_published_iteration_or_the_newest(clone, tmp_path, monkeypatch):
    write_detector(clone, 600_000)
    assert detectors.CornerNet().detector.iteration == 500_000
    (clone / "cache" / "nnet" / "CornerNet" / "CornerNet_500000.pkl").unlink()
    assert detectors.CornerNet().detector.iteration == 600_000
    shutil.rmtree(clone / "cache")
    with pytest.raises(UserError, match=r"there is no snapshot in .*; train CornerNet first"):
        detectors.CornerNet()


def test_weights_in_the_clone_are_found_from_any_folder(clone, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write_config(elsewhere, "CornerNet", categories=3)
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(detectors, "CONFIG_DIR", clone / "configs")
    assert detectors.CornerNet().detector.snapshot.is_relative_to(clone)


def test_boxes_above_the_threshold_are_drawn():
    image = np.full((100, 120, 3), 100, np.uint8)
    boxes = {
        "disc": np.float32([[20, 30, 60, 80, 0.9], [70, 40, 110, 90, 0.5]]),
        "ring": np.float32([[5, 3, 50, 25, 0.6]]),
        "star": np.zeros((0, 5), np.float32),
    }
    drawn = draw_bboxes(image, boxes)
    assert (image == 100).all() and drawn.shape == image.shape
    assert tuple(drawn[80, 40]) == class_color(0) and tuple(drawn[25, 30]) == class_color(1)
    assert (drawn[35:100, 70:] == 100).all()  # its score is not above
    assert (drawn[28:30, 20:40] == class_color(0)).any()  # the name is above the box
    assert (drawn[5:20, 8:30] != 100).any()  # or inside
    assert (draw_bboxes(image, boxes, thresh=0.4)[35:100, 70:] != 100).any()
    colors = {"disc": (1, 2, 3), "ring": [4, 5, 6], "star": (0, 0, 0)}
    assert tuple(draw_bboxes(image, boxes, colors=colors)[80, 40]) == (1, 2, 3)
    larger = draw_bboxes(image, boxes, font_size=1.0)
    assert (larger != 100).sum() > (drawn != 100).sum()


def test_detections_are_drawn_as_well():
    image = np.zeros((40, 50, 3), np.uint8)
    drawn = [draw_bboxes(image, boxes) for boxes in (found(), found().by_class())]
    np.testing.assert_array_equal(*drawn)
    assert drawn[0].any()


@pytest.mark.parametrize("name", ["Top", "Bottom", "Left", "Right"])
def test_corner_pooling_as_modules(name):
    x = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    dim, flips = (2, (2,)) if name in ("Top", "Bottom") else (3, (3,))
    flips = flips if name in ("Top", "Left") else ()
    expected = torch.cummax(x.flip(flips), dim).values.flip(flips)
    pool = getattr(cpools_ext, f"{name}Pool")()
    torch.testing.assert_close(pool(x), expected, rtol=0, atol=0)
    pool(x).sum().backward()
    assert x.grad.sum() == x.numel() and not list(pool.parameters())
