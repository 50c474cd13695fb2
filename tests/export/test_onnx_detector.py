"""An ONNX file of all sizes in onnxruntime, against PyTorch; and files that cannot be run."""

import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from core.config.errors import UserError
from core.export import onnx_file
from core.export.comparison import compare
from core.export.geometry import varying_sides
from core.export.graph import DetectionGraph, settings_of
from core.export.manifest import Manifest
from core.export.onnx_detector import OnnxDetector
from core.export.onnx_file import trace, write_onnx
from core.layers.pyramid import PyramidFeatures, pyramid_maps
from tests.support.exports import CLASS_NAMES, TINY, finding_detector


@pytest.fixture(scope="module")
def loaded():
    return finding_detector("CenterNet", model=TINY["CenterNet"])


@pytest.fixture(scope="module")
def file(loaded, tmp_path_factory):
    """The export of most of these tests, as it takes seconds."""
    return export(loaded, tmp_path_factory.mktemp("export") / "centers.onnx")


def export(loaded, path):
    """Exports a detector for all sizes and batches."""
    settings = settings_of(loaded.detector, "config")
    manifest = Manifest("cells", "CenterNet", "", CLASS_NAMES, *varying_sides(settings), settings)
    graph = DetectionGraph(loaded.detector, settings)
    write_onnx(trace(graph, manifest, None), graph.output_names, manifest, path)
    return path


def noise(*size):
    return np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)


def test_two_sizes_alone_and_in_batches(loaded, file):
    detector = OnnxDetector(file, threads=1)
    images = [noise(100, 150), noise(300, 90), noise(120, 130), noise(100, 150)[::-1].copy()]
    expected = [loaded.detections(image) for image in images]
    assert all(map(len, expected))
    for found in (map(detector.detections, images), detector.stream(images, 3)):
        result = compare(list(found), expected)
        assert result.compared > 20 and result.missing == 0
        assert result.boxes < 1e-3 and result.scores < 1e-5


class Pyramid(nn.Module):
    """A pyramid over convolutions, instead of a backbone, whose export takes most of a minute."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Conv2d(count, 4, side, stride=side)
            for count, side in ((3, 4), (4, 2), (4, 2), (4, 2))
        )
        self.pyramid = PyramidFeatures((4, 4, 4, 4), 8, 4)

    def backbone(self, images):
        maps = [images]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]

    def forward(self, images):
        return pyramid_maps(self.backbone, self.pyramid, images.float())[0].features


def test_a_pyramid_in_images_of_two_sizes(tmp_path):
    """Its maps are rounded up, and ONNX divides numbers below 0 in another way than Python."""
    settings = settings_of(finding_detector("CornerNet-resnet18").detector, "config")
    manifest = Manifest("cells", "CornerNet", "", CLASS_NAMES, *varying_sides(settings), settings)
    network, path = Pyramid().eval(), tmp_path / "pyramid.onnx"
    write_onnx(trace(network, manifest, None), ("features",), manifest, path)
    session = onnxruntime.InferenceSession(path)
    for size in ((150, 190), (190, 150)):
        images = torch.randint(0, 256, (2, 3, *size), dtype=getattr(torch, manifest.dtype))
        with torch.no_grad():
            expected = network(images)
        (found,) = session.run(None, {onnx_file.INPUT: images.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-3)


def test_what_the_file_says(file):
    model = onnx.load(file)
    assert {entry.version for entry in model.opset_import if entry.domain == ""} == {18}
    assert [value.name for value in model.graph.output] == ["boxes", "scores", "labels"]
    assert {node.domain for node in model.graph.node} == {""} and not model.functions
    detector = OnnxDetector(file)
    assert detector.class_names == CLASS_NAMES and detector.batch is None
    assert detector.manifest.config == "cells"


def test_the_file_names_no_path_of_this_machine(file):
    content = file.read_bytes()
    assert b".py" not in content and b"torch/" not in content


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf'ONNX files need {package} .*"cornerkit\[export\]"'):
        onnx_file.import_package(package)


def test_files_that_cannot_be_run(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        OnnxDetector(tmp_path / "absent.onnx")
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(UserError, match=r"text.onnx is no ONNX file that onnxruntime can run"):
        OnnxDetector(tmp_path / "text.onnx")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [value],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])],
    )
    model = onnx.helper.make_model(
        graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)]
    )
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(UserError, match=r"other.onnx has no description of a detector"):
        OnnxDetector(tmp_path / "other.onnx")
