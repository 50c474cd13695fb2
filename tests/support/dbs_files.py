"""Small COCO data sets written for tests."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np


def coco_content(**tables: Any) -> dict[str, Any]:
    """Three images, three categories with odd ids, four boxes; ``tables`` replace what is named.

    Image 7 has no boxes, and image 30 comes before image 2 in the file.
    """
    content = {
        "images": [
            {"id": 30, "file_name": "thirty.jpg", "height": 40, "width": 60},
            {"id": 7, "file_name": "sub/seven.jpg", "height": 50, "width": 50},
            {"id": 2, "file_name": "zwei-ü.jpg", "height": 30, "width": 80},
        ],
        "annotations": [
            annotation(11, 2, 90, [10, 5, 20, 10]),
            annotation(12, 30, -4, [0, 0, 60, 40]),
            annotation(13, 2, 17, [1.5, 2.5, 3.25, 4], iscrowd=1),
            annotation(14, 30, 90, [30.5, 20, 10, 10]),
        ],
        "categories": [
            {"id": 90, "name": "toothbrush"},
            {"id": -4, "name": "person"},
            {"id": 17, "name": "cat"},
        ],
    }
    return {**content, **tables}


def annotation(identity: int, image: int, category: int, bbox: list, **extra: Any) -> dict:
    """One record of ``annotations``."""
    ids = {"id": identity, "image_id": image, "category_id": category}
    return {**ids, "bbox": bbox, "area": 1.0, "segmentation": [[0, 0, 1, 1, 2, 2]], **extra}


def write_coco(root: Path, split: str = "train", kind: str = "instances", **tables: Any) -> Path:
    """Writes the annotation file and the images of a split; returns the annotation file."""
    content = {key: value for key, value in coco_content(**tables).items() if value is not None}
    file = root / "annotations" / f"{kind}_{split}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
    rng = np.random.default_rng(0)
    for image in content["images"]:
        path = root / "images" / split / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (image["height"], image["width"], 3)).astype(np.uint8)
        path.write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes())
    return file
