"""What is exported finds what PyTorch's inference finds: every model, without a runtime."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from core.config.errors import UserError
from core.export import onnx_detector
from core.export.comparison import compare
from core.export.geometry import canvas_size, fixed_side, varying_sides
from core.export.graph import DetectionGraph, settings_of
from core.export.manifest import Manifest
from core.export.onnx_detector import OnnxDetector
from core.export.onnx_file import trace
from core.structures import Detections
from tests.support.exports import CLASS_NAMES, MODELS, TINY, finding_detector
from tests.support.model_builders import small_detector


class GraphSession:
    """A session of onnxruntime whose network is a graph of PyTorch."""

    def __init__(self, graph, manifest, batch):
        self.graph, self.manifest = graph, manifest
        self.shape = [batch or "batch", 3, "height", "width"]
        self.shapes = []

    def get_modelmeta(self):
        return SimpleNamespace(custom_metadata_map=self.manifest.as_metadata())

    def get_inputs(self):
        return [SimpleNamespace(shape=self.shape)]

    def run(self, outputs, inputs):
        images = torch.from_numpy(inputs["images"])
        assert images.dtype == getattr(torch, self.manifest.dtype)
        self.shapes.append(tuple(images.shape))
        with torch.inference_mode():
            found = self.graph(images)
        assert len(found) == len(self.graph.output_names)
        return [value.numpy() for value in found]


@pytest.fixture
def exported(monkeypatch):
    """Makes a file's detector of a loaded one, for images of a size, or of all."""

    def make(loaded, size=None, batch=None):
        settings = settings_of(loaded.detector, "config")
        sides = varying_sides(settings)
        if size is not None:
            sides = map(fixed_side, canvas_size(settings, size))
        manifest = Manifest("config", "model", "", CLASS_NAMES, *sides, settings)
        session = GraphSession(DetectionGraph(loaded.detector, settings), manifest, batch)
        monkeypatch.setattr(onnx_detector, "_open_session", lambda *_: session)
        return OnnxDetector("file.onnx"), session

    return make


def noise(*size):
    return np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)


def assert_equal(found, expected):
    result = compare(list(found), list(expected))
    assert result.compared > 0 and result.missing == 0
    assert result.boxes < 1e-3 and result.scores < 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_every_model(name, exported):
    loaded = finding_detector(name)
    detector, session = exported(loaded)
    images = [noise(100, 150), noise(150, 90)]
    assert_equal(map(detector.detections, images), map(loaded.detections, images))
    assert detector.class_names == CLASS_NAMES and session.shapes


@pytest.mark.parametrize(
    "name, settings",
    [
        ("CornerNet", {"sampling": "fit"}),
        ("CornerNet", {"test_flipped": False}),
        ("CornerNet", {"merge_bbox": True}),
        ("CornerNet", {"test_scales": [0.5, 1, 1.5]}),
        ("CenterNet", {"test_resolution": "fix", "test_flipped": False}),
        ("CenterNet", {"sampling": "fit", "test_nms": True}),
    ],
)
def test_settings_of_inference(name, settings, exported):
    loaded = finding_detector(name, model=TINY[name], **settings)
    detector, _ = exported(loaded)
    assert_equal([detector.detections(noise(100, 150))], [loaded.detections(noise(100, 150))])


def test_batches_that_a_file_does_not_take_are_filled_and_cut(exported):
    loaded = finding_detector("CornerNet", model=TINY["CornerNet"])
    detector, session = exported(loaded, batch=2)
    images = [noise(100, 120 + 2 * number) for number in range(5)]
    found = list(detector.stream(images, 3))
    assert {shape[0] for shape in session.shapes} == {2} and len(found) == 5
    assert_equal(found, map(loaded.detections, images))


def test_images_that_are_smaller_or_larger_than_the_file_s(exported):
    loaded = finding_detector("CornerNet", model=TINY["CornerNet"])
    detector, session = exported(loaded, size=(200, 300))
    found = detector.detections(noise(90, 300))
    assert session.shapes == [(1, 3, 255, 383)]
    assert len(found) and found.boxes[:, [1, 3]].max() <= 90
    with pytest.raises(UserError, match=r"laid out in 383 x 383 .* at most 383 x 255; .*--dynamic"):
        detector.detections(noise(300, 300))


def test_any_number_of_images():
    """PyTorch records it for all sizes and batches: nothing on the way depends on them."""
    loaded = finding_detector("CenterNet", model=TINY["CenterNet"], top_k=8)
    settings = settings_of(loaded.detector, "config")
    graph = DetectionGraph(loaded.detector, settings)
    sides = varying_sides(settings)
    manifest = Manifest("config", "CenterNet", "", CLASS_NAMES, *sides, settings)
    program = trace(graph, manifest, None).module()
    images = torch.from_numpy(noise(3, 48, 80)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        found, expected = (by_image(outputs) for outputs in (program(images), graph(images)))
    result = compare(found, expected)
    assert result.compared > 0 and result.missing == 0 and result.boxes < 1e-3


def by_image(outputs):
    return [Detections(*rows) for rows in zip(*(part.numpy() for part in outputs), strict=True)]


def test_a_detector_whose_numbers_depend_on_the_image():
    with pytest.raises(UserError, match=r"^FasterRCNN.json: Faster R-CNN cannot be exported"):
        settings_of(small_detector("FasterRCNN"), "FasterRCNN.json")
