"""Detectors without a network: one finds a box in every image, one finds drawn objects."""

import itertools

import cv2
import numpy as np

from core.data.large_images import is_too_large, too_large_reason
from core.inference.batches import Found
from core.structures import NO_DETECTIONS, Detections
from core.tools.detect import draw_sources
from core.tools.detect_job import Job
from core.tools.outputs import plan_outputs
from core.tools.sources import find_sources


class StubDetector:
    """Reads a batch ahead of what it yields, as a detector may.

    Attributes:
        batches: number of images in each batch of :meth:`found`.
    """

    class_names = ("thing",)

    def __init__(self):
        self.batches = []

    def found(self, images, batch=0):
        images = iter(images)
        while some := list(itertools.islice(images, batch or 4)):
            self.batches.append(len(some))
            yield from [self.result(image) for image in some]

    def result(self, image):
        try:
            return Found(image, self.detections(image), [])
        except (MemoryError, RuntimeError) as error:
            assert is_too_large(error)
            return Found(image, NO_DETECTIONS, [], too_large_reason(image))


class OneObject(StubDetector):
    """Finds one object in every image."""

    def detections(self, image):
        box = np.array([[1, 1, 9, 9]], np.float32)
        return Detections(box, np.ones(1, np.float32), np.zeros(1, np.int64))


class DrawnObjects(StubDetector):
    """Finds what is not black, each connected component as one object.

    Args:
        noise: largest error of a box's side, in pixels.
    """

    class_names = ("blue", "green", "red")

    def __init__(self, noise=0.0):
        super().__init__()
        self.noise, self.rng = noise, np.random.default_rng(0)

    def detections(self, image):
        height, width = image.shape[:2]
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        _, _, stats, centers = cv2.connectedComponentsWithStats(grey)
        x, y, w, h, _ = stats[1:].T  # without the background
        boxes = np.stack((x, y, x + w, y + h), 1).astype(np.float32)
        boxes += self.rng.uniform(-self.noise, self.noise, boxes.shape).astype(np.float32)
        boxes = boxes.clip(0, (width, height, width, height))
        column, row = centers[1:].astype(int).T
        labels = image[row, column].argmax(1)
        scores = self.rng.uniform(0.5, 1, len(boxes)).astype(np.float32)
        order = np.argsort(-scores)
        return Detections(boxes[order], scores[order], labels[order].astype(np.int64))


def draw(detector, *inputs, out, force=False, **settings):
    """Draws on what ``inputs`` name, as `detect` does; ``settings`` are those of the job."""
    sources = find_sources(inputs)
    outputs = plan_outputs(sources, out, force=force)
    draw_sources(Job(detector, outputs, **{"threshold": 0.3, **settings}), sources)
