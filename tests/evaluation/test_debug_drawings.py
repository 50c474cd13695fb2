"""Drawings of evaluate --debug: what is right, wrong and missed, and how many were found."""

import cv2
import numpy as np
import pytest

from core.data.coco import CocoDetection
from core.evaluation import debug_drawings as drawings
from core.structures import Detections
from tests.support.dbs_files import annotation, write_coco

OBJECTS = ([10, 20, 150, 150], [300, 20, 150, 150], [10, 250, 150, 150])
CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


@pytest.fixture
def dataset(tmp_path):
    """An image with three cats, and a crowd of dogs."""
    boxes = [annotation(n, 1, 1, box) for n, box in enumerate(OBJECTS, 1)]
    boxes.append(annotation(9, 1, 2, [300, 250, 300, 200], iscrowd=1))
    image = {"id": 1, "file_name": "a.jpg", "height": 480, "width": 640}
    tables = {"images": [image], "annotations": boxes, "categories": CATEGORIES}
    return CocoDetection(write_coco(tmp_path, **tables), tmp_path / "images" / "train")


def detections(*rows):
    """Detections (xywh, label, score), best first."""
    boxes = np.array([box for box, _, _ in rows], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    scores = np.array([score for _, _, score in rows], np.float32)
    return Detections(boxes, scores, np.array([label for _, label, _ in rows], np.int64))


FOUND = (
    (OBJECTS[0], 0, 0.9),
    (OBJECTS[0], 0, 0.8),  # again
    (OBJECTS[1], 1, 0.7),  # of the wrong class
    ([310, 260, 50, 50], 1, 0.6),  # in the crowd
)


def test_marks(dataset):
    marks, summary = drawings.judged_marks(detections(*FOUND), dataset, 0)
    assert summary == "1 of 3 found, 2 wrong"
    by_text = {(mark.text, mark.dashed): mark.color for mark in marks}
    assert by_text == {
        ("cat", True): drawings.MISSED_COLOR,
        ("cat 0.90", False): drawings.RIGHT_COLOR,
        ("cat 0.80", False): drawings.WRONG_COLOR,
        ("dog 0.70", False): drawings.WRONG_COLOR,
        ("dog 0.60", False): drawings.CROWD_COLOR,
    }
    missed = [mark.box for mark in marks if mark.dashed]
    assert missed == [(300, 20, 450, 170), (10, 250, 160, 400)]
    assert marks[-1].text == "cat 0.90"  # the best on top


def test_all_found_and_nothing_found(dataset):
    right = detections(*((box, 0, 0.5) for box in OBJECTS))
    assert drawings.judged_marks(right, dataset, 0)[1] == "3 of 3 found"
    assert drawings.judged_marks(detections(), dataset, 0)[1] == "0 of 3 found"


def has_color(image, color):
    """Whether an area has about this colour, which JPEG changes."""
    return int((np.abs(image.astype(int) - color).max(2) < 40).sum()) > 60


def test_colours_of_the_file(dataset):
    image = np.full((480, 640, 3), 255, np.uint8)
    found = detections(*FOUND, ([200, 200, 50, 50], 0, 0.2))  # too low to be drawn
    (name,), (content,) = zip(
        *drawings.debug_drawings(image, found, [], dataset, 0).items(), strict=True
    )
    assert name == "00000_a.jpg"
    drawn = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    left, right = drawn[-480:, :640], drawn[-480:, -640:]
    assert has_color(left[15:25, 5:165], drawings.RIGHT_COLOR)
    bottom = left[398:403, 12:158]  # of the missed object, below its label
    dashes = (np.abs(bottom[2].astype(int) - drawings.MISSED_COLOR).max(1) < 60).mean()
    assert 0.3 < dashes < 0.8
    assert (left[195:255, 195:255] > 200).all()
    assert not any(
        has_color(right, color) for color in (drawings.RIGHT_COLOR, drawings.MISSED_COLOR)
    )


def test_without_annotations_there_is_one_panel(tmp_path):
    image = {"id": 1, "file_name": "a.jpg", "height": 480, "width": 640}
    tables = {"images": [image], "annotations": None, "categories": CATEGORIES}
    file = write_coco(tmp_path, **tables)
    dataset = CocoDetection(file, tmp_path / "images" / "train")
    pixels = np.full((480, 640, 3), 255, np.uint8)
    (content,) = drawings.debug_drawings(pixels, detections(*FOUND), [], dataset, 0).values()
    drawn = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert drawn.shape[1] == 640
