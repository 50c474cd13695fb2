"""Detections as a COCO file: images by their file names, categories, and boxes with scores."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..config.errors import UserError
from ..evaluation.coco import image_results
from ..evaluation.report import write_json
from ..structures import Detections


class DetectedCoco:
    """Collects detections and writes them as one COCO file, which annotation programs open.

    Boxes and scores are not rounded. Category ids count the classes from 1 on.

    Args:
        class_names: names of the classes.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self._categories = [{"id": id_, "name": name} for id_, name in enumerate(class_names, 1)]
        self._category_ids = np.arange(1, len(class_names) + 1)
        self._images: list[dict[str, Any]] = []
        self._found: list[Detections] = []

    def add(
        self, file_name: str, size: tuple[int, int], found: Detections, frame: int | None = None
    ) -> None:
        """Adds the detections of an image.

        Args:
            file_name: the image's or the video's.
            size: height and width of the image.
            found: its detections.
            frame: number of the frame in its video, from 0 on; None: it is an image.
        """
        image = {
            "id": len(self._images) + 1,
            "file_name": file_name,
            "height": size[0],
            "width": size[1],
        }
        self._images.append(image if frame is None else {**image, "frame": frame})
        self._found.append(found)

    def write(self, path: Path) -> None:
        """Writes the file, completely or not at all.

        Raises:
            UserError: it cannot be written.
        """
        annotations: list[dict[str, Any]] = []
        for image, found in zip(self._images, self._found, strict=True):
            for result in image_results(found, image["id"], self._category_ids):
                width, height = result["bbox"][2:]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        **result,
                        "area": width * height,
                        "iscrowd": 0,
                    }
                )
        content = {
            "images": self._images,
            "categories": self._categories,
            "annotations": annotations,
        }
        try:
            write_json(path, content)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from None
