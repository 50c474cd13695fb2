"""A dataset whose ids, file names and boxes are as awkward as COCO's format allows."""

import json
from pathlib import Path

import cv2
import numpy as np

SIZES = {"a.PNG": (40, 60), "folder/b.png": (50, 30), "c.png": (20, 20)}  # height, width
# (image, category, box, crowd); the ids of images are 5, 3, 9, those of categories 7 and 2
ROWS = [
    (5, 7, [10, 5, 20, 30], 0),
    (5, 2, [40, 10, 15, 10], 0),
    (3, 2, [3, 4, 12.5, 30], 0),
    (3, 7, [0, 0, 30, 50], 1),
]
CATEGORIES = [{"id": 7, "name": 'a "big" one'}, {"id": 2, "name": "small: one"}]


def write_awkward_dataset(root: Path) -> Path:
    """Writes the splits ``train`` and ``val``, which are the same, under ``root``; returns it.

    Image i has one colour, its id times 20.
    """
    for split in ("train", "val"):
        images = []
        for identity, (name, (height, width)) in zip((5, 3, 9), SIZES.items(), strict=True):
            path = root / "images" / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.full((height, width, 3), identity * 20, np.uint8))
            images.append({"id": identity, "file_name": name, "height": height, "width": width})
        annotations = [
            {"id": n, "image_id": i, "category_id": c, "bbox": box, "iscrowd": crowd}
            for n, (i, c, box, crowd) in enumerate(ROWS)
        ]
        content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        file = root / "annotations" / f"instances_{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
    return root
