"""docs/python.md: its programs run, one after another, with a small detector and few steps."""

import json
import re
from pathlib import Path

import cv2
import numpy as np

from core.data.shapes import CLASS_NAMES, write_shapes
from tests.support.examples import as_core
from tests.support.tiny_detector import write_config, write_snapshot

PAGE = Path(__file__).resolve().parents[1] / "docs" / "python.md"
SHORTER = {"max_iter=2000": "max_iter=2", "eval_iter=500": "eval_iter=1"}


def test_the_programs_of_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    write_shapes(tmp_path / "data" / "coco", {"train": 3, "val": 2}, size=64, seed=0)
    for name, iteration in (("mine", 20), ("CornerNet", 500_000)):
        file = write_config(tmp_path, name)
        file.write_text(json.dumps({**json.loads(file.read_text()), "model_name": "CornerNet"}))
        write_snapshot(tmp_path, iteration, CLASS_NAMES, name, seed=20)
    noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3)).astype(np.uint8)
    cv2.imwrite("photo.jpg", noise)
    program = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S))
    for written, shorter in {**SHORTER, '"person"': '"star"'}.items():
        assert written in program
        program = program.replace(written, shorter)
    names: dict = {}
    exec(as_core(program), names)
    assert names["boxes"].shape[1] == 5 and len(names["people"]) <= len(names["found"])
    assert len(names["best"]) == 3 and len(names["results"]) == len(names["first"]) > 0
    assert names["result"].best is not None and names["metrics"].images == 2
    assert cv2.imread("drawn.jpg").shape == noise.shape
    assert "Detections(" in capsys.readouterr().out
