"""Contact sheets of a dataset: its images with their boxes, plain or as training gets them."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path

import cv2
import numpy as np
import torch

from .. import models
from ..config.loading import Config
from ..data.coco import CocoDetection
from ..data.color import show_color
from ..data.file_names import output_name
from ..data.images import Unreadable, read_image
from ..data.loader import TrainingImages
from .draw import contact_sheet, draw_detections, jpeg

_COLUMNS, _CELLS = 4, 16  # drawings in a row, and on a sheet
_SIDE = 480  # pixels of the longer side of a drawing, in which names can be read

Drawing = tuple[str, np.ndarray]  # caption, and uint8 [h, w, 3]


def spread_evenly(images: int, wanted: int) -> list[int]:
    """Chooses numbers of images, the same in every call: the middles of equal parts."""
    parts = min(images, wanted)
    return [(2 * part + 1) * images // (2 * parts) for part in range(parts)]


def plain_drawings(dataset: CocoDetection, indices: Iterable[int]) -> Iterator[Drawing]:
    """Draws images with the boxes that training takes; one that cannot be read says why."""
    for index in indices:
        name, image = dataset.file_name(index), read_image(dataset.image_path(index))
        if isinstance(image, Unreadable):
            nothing = np.zeros((_SIDE // 2, _SIDE, 3), np.uint8)
            yield f"{name} {image.reason}", nothing
        else:
            yield name, _drawn(image, dataset.boxes(index), dataset.labels(index), dataset)


def augmented_drawings(
    dataset: CocoDetection, indices: Iterable[int], config: Config
) -> Iterator[Drawing]:
    """Draws the samples of the first epoch, as the detector of a config gets them.

    Args:
        dataset: the split.
        indices: numbers of its images.
        config: config with the detector, the seed and the augmentation.

    Raises:
        UserError: there is no such detector, or its settings do not fit it.
    """
    with torch.device("meta"):  # without its weights
        detector = models.build(config, max(1, len(dataset.class_names)))
    mosaic = config.db.mosaic if config.db.data_aug else 0.0
    samples = TrainingImages(dataset, detector.sample, config.system.seed, mosaic)
    for index in indices:
        sample, number, _ = samples[0, index]
        image = show_color(np.ascontiguousarray(sample.image.transpose(1, 2, 0)), sample.color)
        usable = True if sample.usable is None else sample.usable
        caption = dataset.file_name(number)
        yield caption, _drawn(image, sample.boxes, sample.labels, dataset, usable)


def write_sheets(drawings: Iterable[Drawing], folder: Path, name: str) -> Iterator[Path]:
    """Writes drawings as sheets ``<name>_<number>.jpg`` of 16, and gives the path of each.

    Raises:
        OSError: a sheet cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remaining = iter(drawings)
    for number in count(1):
        cells = list(islice(remaining, _CELLS))
        if not cells:
            return
        path = folder / output_name(name, f"_{number}.jpg")
        path.write_bytes(jpeg(contact_sheet(cells, _COLUMNS)))
        yield path


def _drawn(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    dataset: CocoDetection,
    usable: np.ndarray | bool = True,
) -> np.ndarray:
    """Draws boxes on an image of the size of a cell; the names of those not usable say so."""
    zoom = _SIDE / max(image.shape[:2])
    size = [max(1, round(side * zoom)) for side in image.shape[1::-1]]
    kind = cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
    names: Sequence[str] = dataset.class_names
    names = [*names, *(f"{name}, not trained" for name in names)]
    numbers = np.where(usable, labels, labels + len(dataset.class_names))
    return draw_detections(
        cv2.resize(image, size, interpolation=kind), boxes * zoom, numbers, None, names
    )
