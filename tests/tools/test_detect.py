"""demo.py from the command line to drawings, and what it refuses."""

import json
import logging
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

import demo
from core.config.errors import UserError
from core.structures import Detections
from core.tools.detected_coco import DetectedCoco
from core.tools.sources import find_sources
from tests.support.stub_detectors import DrawnObjects, OneObject, draw
from tests.support.tiny_detector import write_config, write_snapshot


@pytest.fixture
def root(tmp_path):
    """A config and a snapshot of it."""
    write_config(tmp_path)
    write_snapshot(tmp_path, 20, ("person", "cat", "toothbrush"))
    return tmp_path


def argv(root, *more):
    return [str(root / "configs" / "CornerNet-tiny.json"), "--device", "cpu", *more]


def test_demo_draws_images_folders_and_videos(root, caplog):
    caplog.set_level(logging.INFO)
    video = cv2.VideoWriter(str(root / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    for value in (10, 200):
        video.write(np.full((64, 96, 3), value, np.uint8))
    video.release()
    image = np.random.default_rng(3).integers(0, 256, (300, 500, 3)).astype(np.uint8)
    (root / "folder").mkdir()
    for file in ("image.png", "folder/image.png", "folder/other.JPG"):
        (root / file).write_bytes(cv2.imencode(Path(file).suffix.lower(), image)[1].tobytes())
    (root / "folder" / "notes.txt").write_text("no image")
    inputs = [str(root / name) for name in ("image.png", "folder", "clip.avi")]
    out = root / "drawn"
    assert demo.main([*argv(root, *inputs), "--out", str(out), "--threshold", "0"]) == 0
    assert sorted(file.name for file in out.iterdir()) == [
        "clip.mp4",
        "image.png",
        "image_2.png",
        "other.jpg",
    ]
    drawn = cv2.imread(str(out / "image.png"))
    assert drawn.shape == image.shape and (drawn != image).any()
    clip = cv2.VideoCapture(str(out / "clip.mp4"))
    assert clip.get(cv2.CAP_PROP_FRAME_COUNT) == 2
    assert clip.get(cv2.CAP_PROP_FPS) == 10
    lines = [line for line in caplog.messages if "->" in line]
    assert len(lines) == 4 and "2 frames" in lines[-1]
    (out / "image.png").unlink()
    assert demo.main([*argv(root, inputs[0]), "--out", str(out), "--threshold", "1"]) == 0
    np.testing.assert_array_equal(cv2.imread(str(out / "image.png")), image)


def test_what_systems_leave_in_folders_is_passed_over(tmp_path):
    for name in ("a.jpg", "._a.jpg", "Thumbs.db", ".DS_Store", ".b.png"):
        (tmp_path / name).write_bytes(b"")
    found = [source.path.name for source in find_sources([tmp_path, tmp_path / "._a.jpg"])]
    assert found == [".b.png", "a.jpg", "._a.jpg"]  # the last was named, so it is refused later


def test_drawings_have_names_that_a_file_system_takes(root):
    image = cv2.imencode(".png", np.zeros((60, 60, 3), np.uint8))[1].tobytes()
    names = ["n" * 251 + ".png", "n" * 250 + "m.png", "b\udce9.png", "back\\slash.PNG", "B_.PNG"]
    for name in names:
        (root / name).write_bytes(image)
    out = root / "drawn"
    assert demo.main([*argv(root, *(str(root / name) for name in names)), "--out", str(out)]) == 0
    written = sorted(file.name for file in out.iterdir())
    assert len(written) == len(names)
    assert written[:3] == ["B__2.png", "b_.png", "back_slash.png"]
    assert all(len(name) == 200 and name.startswith("nnn") for name in written[3:])


class Small(OneObject):
    """A detector without the memory for images of 96 pixels."""

    def detections(self, image):
        if image.shape[1] == 96:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried")
        return super().detections(image)


def test_an_image_too_large_for_the_memory_leaves_the_others(tmp_path, caplog):
    for name, width in {"a.png": 60, "b.png": 96, "c.png": 60, "d.png": 60, "e.png": 96}.items():
        cv2.imwrite(str(tmp_path / name), np.zeros((64, width, 3), np.uint8))
    with pytest.raises(UserError, match=r"2 of 5 inputs were skipped: .*b\.png, .*e\.png"):
        draw(Small(), tmp_path, out=tmp_path / "drawn", batch=3)
    drawn = sorted(file.name for file in (tmp_path / "drawn").iterdir())
    assert drawn == ["a.png", "c.png", "d.png"]
    line = f"skipped: {tmp_path / 'b.png'} is too large for the memory (96 x 64 pixels); smaller db"
    assert any(message.startswith(line) for message in caplog.messages)
    assert "--tile 1024" in caplog.text


@pytest.fixture
def onnx(tmp_path, monkeypatch):
    """A stand-in for the detector of an exported file, and two images with drawn objects."""
    loaded = []

    class Exported(DrawnObjects):
        def __init__(self, file):
            super().__init__()
            loaded.append(file)

    for name in ("core.export", "core.export.onnx_detector"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["core.export.onnx_detector"].OnnxDetector = Exported
    for number in (1, 2):
        image = np.zeros((400, 600, 3), np.uint8)
        image[20:50, 30:90, 0] = 255
        image[100:250, 200 : 200 + 100 * number, 2] = 255
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    yield ["--onnx", "net.onnx", str(tmp_path / "1.png"), str(tmp_path / "2.png")]
    assert set(loaded) <= {Path("net.onnx")}


def test_results_crops_and_classes(onnx, tmp_path):
    out, results = tmp_path / "drawn", tmp_path / "new" / "found.json"
    options = ["--out", str(out), "--save-json", str(results), "--save-crops", "--batch", "1"]
    assert demo.main([*onnx, *options]) == 0
    found = json.loads(results.read_text())
    assert [category["name"] for category in found["categories"]] == ["blue", "green", "red"]
    assert found["images"][1] == {
        "id": 2,
        "file_name": str(tmp_path / "2.png"),
        "height": 400,
        "width": 600,
    }
    boxes = [(row["image_id"], row["category_id"], row["bbox"]) for row in found["annotations"]]
    assert sorted(boxes) == [
        (1, 1, [30, 20, 60, 30]),
        (1, 3, [200, 100, 100, 150]),
        (2, 1, [30, 20, 60, 30]),
        (2, 3, [200, 100, 200, 150]),
    ]
    assert {row["area"] for row in found["annotations"]} == {1800, 15000, 30000}
    crops = {path.relative_to(out / "crops").parts for path in out.glob("crops/*/*")}
    assert {(kind, name[:2]) for kind, name in crops} == {
        (kind, f"{number}_") for kind in ("blue", "red") for number in (1, 2)
    }
    (wide,) = out.glob("crops/red/2_*.png")
    assert cv2.imread(str(wide)).shape == (150, 200, 3) and cv2.imread(str(wide))[..., 2].min()
    with pytest.raises(UserError, match="3 more outputs are there already; --force"):
        demo.main([*onnx, *options])
    demo.main([*onnx, *options, "--force", "--classes", "green,blue", "--threshold", "0"])
    found = json.loads(results.read_text())
    assert {row["category_id"] for row in found["annotations"]} == {1}


def test_scores_and_boxes_of_the_results_are_exact(tmp_path):
    class Exact(OneObject):
        def detections(self, image):
            boxes = np.array([[0.1, 0.2, 9.7, 7.3]], np.float32)
            return Detections(boxes, np.array([0.7], np.float32), np.zeros(1, np.int64))

    coco = DetectedCoco(["thing"])
    coco.add("a\udcff.jpg", (10, 20), Exact().detections(None), frame=3)
    coco.write(tmp_path / "found.json")
    (row,) = json.loads((tmp_path / "found.json").read_text())["annotations"]
    box = Exact().detections(None).boxes[0].astype(np.float64)
    assert row["bbox"] == [*box[:2], *(box[2:] - box[:2])]
    assert np.float32(row["score"]) == np.float32(0.7) and row["score"] == float(np.float32(0.7))


def test_tiles(onnx, tmp_path, caplog):
    """With an overlap of 0 the wide object would lie in two tiles, whole in none."""
    caplog.set_level(logging.INFO)
    options = ["--tile", "300", "--overlap", "0.7", "--out", str(tmp_path / "drawn")]
    assert demo.main([*onnx, *options]) == 0
    lines = [line.split(": ")[1].split(" ->")[0] for line in caplog.messages if "->" in line]
    assert [sorted(line.split(", ")) for line in lines] == [["1 blue", "1 red"]] * 2


@pytest.mark.parametrize(
    "options, message",
    [
        (["--tile", "10"], "argument --tile: 10 must be at least 64"),
        (["--overlap", "0.1"], "argument --overlap: needs --tile"),
        (["--tile", "99", "--overlap", "1"], "argument --overlap: 1.0 must be from 0 to 0.9"),
        (["--batch", "-1"], "argument --batch: -1 must not be negative"),
        (["--set", "db.top_k=5"], "unrecognized arguments: --set"),
    ],
)
def test_values_that_cannot_be(onnx, options, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        demo.main([*onnx, *options])
    assert message in capsys.readouterr().err


def test_classes_that_the_detector_does_not_know(onnx, tmp_path):
    with pytest.raises(UserError) as error:
        demo.main([*onnx, "--out", str(tmp_path / "drawn"), "--classes", "blue,redd"])
    assert str(error.value) == "--classes: the detector knows no class 'redd'; did you mean 'red'?"


def test_demo_mistakes_have_one_line(root):
    (root / "empty").mkdir()
    (root / "text.jpg").write_text("no image")
    (root / "text.mp4").write_text("no video")
    good = root / "good.png"
    cv2.imwrite(str(good), np.zeros((60, 60, 3), np.uint8))

    def message(*inputs, out=root / "drawn", more=()):
        with pytest.raises(UserError) as error:
            demo.main([*argv(root, *map(str, inputs)), "--out", str(out), *more])
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "no image, folder or video" in message(root / "gone.jpg")
    assert "holds no image or video" in message(root / "empty")
    assert "is a file" in message(good, out=root / "text.jpg")
    assert "would be overwritten" in message(good, out=root)
    assert "between 0 and 1" in message(good, more=("--threshold", "30"))
    assert not (root / "drawn").exists()
    assert "is a URL" in message(good, "https://host/a.jpg")
    bad = message(root / "text.jpg", root / "text.mp4", good)
    assert "2 of 3 inputs were skipped" in bad and "text.mp4" in bad
    assert [file.name for file in (root / "drawn").iterdir()] == ["good.png"]
    assert "good.png is there already; --force overwrites it" in message(good)
