"""Image files: decoding them, in this process or in workers, and describing what is wrong with one.

Images are uint8 [height, width, 3] in the order BGR, rotated as the EXIF data of their file says.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..config.errors import UserError
from .coco import CocoDetection
from .image_memory import shared_copy


def decode_image(data: bytes) -> np.ndarray | None:
    """Decodes the content of an image file: uint8 [height, width, 3], BGR, or None if it cannot.

    Unlike ``cv2.imread``, which fills the missing part with grey, it refuses a JPEG file that is
    cut short.
    """
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # no bytes at all, or more pixels than OpenCV takes
        return None


def read_image(path: Path) -> np.ndarray | None:
    """Reads an image: uint8 [height, width, 3], BGR; None if the file is missing or no image."""
    try:
        return decode_image(path.read_bytes())
    except OSError:
        return None


def load_image(path: str | Path) -> np.ndarray:
    """Reads an image that a user named: uint8 [height, width, 3], BGR.

    Raises:
        UserError: there is no such file, or it cannot be decoded.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no image {path}")
    image = read_image(path)
    if image is None:
        raise UserError(f"{path} is not an image, or is cut short")
    return image


def image_problem(path: Path, size: tuple[int, int]) -> str | None:
    """Describes what is wrong with an image file; None if nothing is.

    Args:
        path: the file.
        size: (height, width) that its annotation gives.
    """
    if not path.is_file():
        return f"{path}: there is no such file"
    try:
        data = path.read_bytes()
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror}"
    if data.startswith(b"\xff\xd8") and not _jpeg_ends(data):
        return f"{path}: is cut short (a JPEG file without its end)"
    image = decode_image(data)
    if image is None:
        return f"{path}: cannot be decoded as an image"
    height, width = image.shape[:2]
    if (height, width) != size:
        turned = " (turned by its EXIF data?)" if (width, height) == size else ""
        return (
            f"{path}: is {width} x {height} pixels, its annotation says {size[1]} x {size[0]}"
            f"{turned}"
        )
    return None


class ImageFiles(Dataset[Tensor]):
    """Images as they are in their files; one that cannot be decoded is uint8 [0, 0, 3].

    Args:
        dataset: dataset whose image files are decoded.
    """

    def __init__(self, dataset: CocoDetection) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Tensor:
        image = read_image(self.dataset.image_path(index))
        return shared_copy(np.empty((0, 0, 3), np.uint8) if image is None else image)


def decoded_images(
    dataset: CocoDetection, workers: int, indices: Sequence[int]
) -> Iterator[np.ndarray]:
    """Decodes images of a dataset in worker processes; draws no global random number.

    Args:
        dataset: dataset whose image files are decoded.
        workers: number of processes that decode ahead; 0 to decode in this one.
        indices: numbers of the images in the dataset.

    Yields:
        uint8 [height, width, 3], BGR, in the order of ``indices``.

    Raises:
        UserError: an image cannot be decoded; metrics without it would not be comparable.
    """
    loader = DataLoader(
        ImageFiles(dataset),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        sampler=indices,
        worker_init_fn=_use_one_thread,
        generator=torch.Generator(),  # otherwise it would draw from the global one
    )
    for index, tensor in zip(indices, loader, strict=True):
        image = tensor.numpy()
        if image.size == 0:
            raise UserError(
                f"{dataset.image_path(index)} cannot be decoded; replace it, or take it out of "
                f"{dataset.annotation_file}"
            )
        yield image


def _use_one_thread(worker: int) -> None:
    cv2.setNumThreads(0)


def _jpeg_ends(data: bytes) -> bool:
    """True if an end-of-image marker follows the first scan; thumbnails come before it."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xDA:  # start of scan: from here a 0xFF of the data is followed by 0x00
            return data.find(b"\xff\xd9", position) >= 0
        fill = marker == 0xFF
        position += 1 if fill else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return False
