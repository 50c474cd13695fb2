"""`cornerkit export`: the file, what is printed about it, its use from other programs, refusals."""

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from core.checkpoint.run_directory import RunDirectory
from core.checkpoint.snapshot import Meta, save_snapshot, versions
from core.cli import main as cornerkit
from core.config.errors import UserError
from core.config.loading import load_config
from core.export.onnx_detector import OnnxDetector
from core.models.loading import load_detector
from core.tools import export
from tests.support import tiny_detector
from tests.support.exports import CLASS_NAMES, TINY, finding_detector

PAGE = Path(__file__).parents[2] / "docs" / "export.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a config, its snapshot and an image."""
    root = tmp_path_factory.mktemp("export")
    file = tiny_detector.write_config(root, "CornerNet-tiny", nms_threshold=0.4)
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "model": TINY["CornerNet"]}))
    config = load_config(str(file))
    network = finding_detector("CornerNet", model=TINY["CornerNet"]).detector.network
    meta = Meta("CornerNet-tiny", 1, CLASS_NAMES, config.as_dict(), versions())
    path = RunDirectory(root / "cache", "CornerNet-tiny").snapshot(1)
    save_snapshot(path, network, {}, meta)
    noise = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
    cv2.imwrite(str(root / "photo.png"), noise)
    return root


@pytest.fixture(scope="module")
def printed(folder):
    """What the one export of these tests prints, for images of 100 x 120 pixels."""
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr(export, "_ROUNDS", 1)
        patch.setattr(sys.stdout, "write", lines.append)
        assert run(folder, "--out", folder / "cells.onnx", "--size", 100, 120) == 0
    return "".join(lines)


def run(folder, *arguments):
    photo, configs = folder / "photo.png", folder / "configs"
    return export.main(
        ["CornerNet-tiny", "--config-dir", str(configs), "--image", str(photo)]
        + [str(argument) for argument in arguments]
    )


def test_what_is_printed(folder, printed):
    file, shape, agreement, times = printed.splitlines()
    assert re.fullmatch(rf"{folder}/cells.onnx: 0\.\d MB, opset 18", file)
    assert shape == "input: uint8 [1, 3, 127, 127], BGR"
    count, total, boxes, scores = re.fullmatch(
        r"against PyTorch: (\d+) of (\d+) detections agree, boxes within (\S+) pixels, scores "
        r"within (\S+)",
        agreement,
    ).groups()
    assert int(count) == int(total) > 0 and float(boxes) < 1e-3 and float(scores) < 1e-5
    assert re.fullmatch(
        r"an image of 100 x 120: onnxruntime \d+ ms, PyTorch \d+ ms \(float32, \d+ threads?, "
        r"medians of 1\)",
        times,
    )


def test_the_file_is_of_the_snapshot(folder, printed):
    manifest = OnnxDetector(folder / "cells.onnx").manifest
    assert manifest.class_names == CLASS_NAMES and manifest.settings.nms_threshold == 0.4
    assert (manifest.config, manifest.snapshot) == ("CornerNet-tiny", "CornerNet-tiny_1.pkl")


def test_a_script_without_this_package(folder, printed):
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert "torch" not in block and "cornerkit" not in block
    block = block.replace("photo.jpg", "photo.png")
    ran = subprocess.run(
        [sys.executable, "-c", block], cwd=folder, capture_output=True, text=True, check=True
    )
    found = OnnxDetector(folder / "cells.onnx").detections(folder / "photo.png")
    lines = ran.stdout.splitlines()
    assert lines and all(re.match(r"(red|white|plate <let>) 0\.\d+ \[", line) for line in lines)
    score, *box = (float(number) for number in re.findall(r"-?\d+\.\d*", lines[0]))
    assert score == pytest.approx(found.scores[0], abs=1e-5)
    box = np.clip(box, 0, [90, 80, 90, 80])  # as detectors of corners do
    np.testing.assert_allclose(box, found.boxes[0], atol=1e-2)


def test_nothing_is_overwritten(folder, printed):
    before = (folder / "cells.onnx").read_bytes()
    with pytest.raises(UserError, match=r"cells.onnx exists; --force"):
        run(folder, "--out", folder / "cells.onnx")
    assert (folder / "cells.onnx").read_bytes() == before


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--batch", 0], "must be at least 1"),
        (["--size", 0, 10], "must be at least 1"),
        (["--out", "cells.txt"], "must name an .onnx file"),
        (["--out", "absent/cells.onnx"], "no folder absent"),
        (["--image", "absent.png"], "there is no image absent.png"),
        (["--set", "db.test_scales=[1, 2]"], "2 db.test_scales .*--dynamic"),
    ],
)
def test_refusals(folder, arguments, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(export, "trace", None)  # all of them come before the work
    with pytest.raises(UserError, match=message):
        run(folder, *arguments)
    assert not list(tmp_path.iterdir())


def test_a_wrong_file_is_reported(folder, printed, monkeypatch, capsys, caplog):
    monkeypatch.setattr(export, "_ROUNDS", 1)
    monkeypatch.setattr(export, "_MOST_PIXELS", -1.0)
    loaded = load_detector("CornerNet-tiny", config_dir=folder / "configs", device="cpu")
    image = cv2.imread(str(folder / "photo.png"))
    assert export._report(loaded, OnnxDetector(folder / "cells.onnx"), [image], 1) == 1
    assert "does not detect what PyTorch detects" in caplog.text


def test_without_the_packages(folder, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(SystemExit, match="2"):
        cornerkit(["export", "CornerNet-tiny"])
    assert 'pip install "cornerkit[export]"' in caplog.text
