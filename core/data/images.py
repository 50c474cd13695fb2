"""Image files: decoding them, in this process or in workers, and describing what is wrong with one.

Images are uint8 [height, width, 3] in the order BGR, rotated as the EXIF data of their file says.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..config.errors import UserError
from .coco import CocoDetection
from .image_memory import shared_copy
from .image_sizes import header_of
from .jpeg import CUT, START, is_cut, jpeg_damage

_TIFF = (b"II*\0", b"MM\0*")
_MOST_PIXELS = 2**30  # that OpenCV decodes by default
_NOTHING = np.empty((0, 0, 3), np.uint8)


class Unreadable(NamedTuple):
    """An image that cannot be used.

    Attributes:
        reason: what is wrong, to go after the name of the file: "is cut short".
        too_large: True if the file may be whole, and memory or a limit of OpenCV does not suffice.
    """

    reason: str
    too_large: bool = False


def decode_image(data: bytes) -> np.ndarray | Unreadable:
    """Decodes the content of an image file, or says why it cannot be used.

    Of an animation it is the first frame. An image of more than 8 bits is scaled so that its lowest
    value becomes 0 and its highest 255; values that are not finite become 0.

    Returns:
        uint8 [height, width, 3], BGR.
    """
    if not data:
        return Unreadable("cannot be decoded: it is empty")
    image = _decode(data)
    if image is None and data.startswith(_TIFF):  # grey, with 32 or 64 bits a pixel
        image = _decode(data, cv2.IMREAD_ANYDEPTH)
    if image is None:
        return _failure(data)
    if data.startswith(START) and (damage := jpeg_damage(data, image, _decode)):
        return Unreadable(damage)
    return image if image.dtype == np.uint8 else to_8_bits(image)


def read_image(path: Path) -> np.ndarray | Unreadable:
    """Reads an image: uint8 [height, width, 3], BGR; or says why it cannot be used."""
    try:
        return decode_image(path.read_bytes())
    except FileNotFoundError:
        return Unreadable("does not exist")
    except OSError as error:
        return Unreadable(f"cannot be read: {error.strerror}")
    except ValueError:
        return Unreadable("cannot be read: the file system has no such names")
    except MemoryError:
        return Unreadable("is too large for the memory", too_large=True)


def load_image(path: str | Path) -> np.ndarray:
    """Reads an image that a user named: uint8 [height, width, 3], BGR.

    Raises:
        UserError: there is no such file, or it cannot be used.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no image {path}")
    image = read_image(path)
    if isinstance(image, Unreadable):
        raise UserError(f"{path} {image.reason}")
    return image


def image_problem(path: Path, size: tuple[int, int]) -> str | None:
    """Describes what is wrong with an image file; None if nothing is.

    Args:
        path: the file.
        size: (height, width) that its annotation gives.
    """
    image = read_image(path)
    if isinstance(image, Unreadable):
        return f"{path}: {image.reason}"
    height, width = image.shape[:2]
    if (height, width) != size:
        turned = " (turned by its EXIF data?)" if (width, height) == size else ""
        return (
            f"{path}: is {width} x {height} pixels, its annotation says {size[1]} x {size[0]}"
            f"{turned}"
        )
    return None


class ImageFiles(Dataset[Tensor]):
    """Images as they are in their files; one that cannot be used is uint8 [0, 0, 3].

    Args:
        dataset: dataset whose image files are decoded.
    """

    def __init__(self, dataset: CocoDetection) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Tensor:
        image = read_image(self.dataset.image_path(index))
        return shared_copy(_NOTHING if isinstance(image, Unreadable) else image)


def decoded_images(
    dataset: CocoDetection, workers: int, indices: Sequence[int]
) -> Iterator[np.ndarray | Unreadable]:
    """Decodes images of a dataset in worker processes; draws no global random number.

    Args:
        dataset: dataset whose image files are decoded.
        workers: number of processes that decode ahead; 0 to decode in this one.
        indices: numbers of the images in the dataset.

    Yields:
        uint8 [height, width, 3], BGR, in the order of ``indices``; or why an image is too large.

    Raises:
        UserError: an image is missing or damaged; metrics without it would not be comparable.
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
        image: np.ndarray | Unreadable = tensor.numpy()
        if not tensor.numel():
            path = dataset.image_path(index)
            image = read_image(path)  # once more, for the reason
            if isinstance(image, Unreadable) and not image.too_large:
                raise UserError(
                    f"{path} {image.reason}; replace it, or take it out of "
                    f"{dataset.annotation_file}"
                )
        yield image


def _use_one_thread(worker: int) -> None:
    cv2.setNumThreads(0)


def _decode(data: bytes, flags: int = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH) -> np.ndarray | None:
    """Decodes with OpenCV, whose own messages are left out: the reason given here replaces them."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # more pixels than it takes
        return None
    finally:
        cv2.utils.logging.setLogLevel(level)


def _failure(data: bytes) -> Unreadable:
    """Finds out why OpenCV does not decode the content of a file."""
    header = header_of(data)
    if header is None:
        kind = "text, perhaps a web page" if data.lstrip().startswith(b"<") else "no known image"
        return Unreadable(f"cannot be decoded: it is {kind}")
    height, width = header.size
    setting = os.environ.get("OPENCV_IO_MAX_IMAGE_PIXELS", "")
    if height * width > (int(setting) if setting.isdecimal() else _MOST_PIXELS):
        limit = "the environment variable OPENCV_IO_MAX_IMAGE_PIXELS raises the limit"
        return Unreadable(f"has {width} x {height} pixels, too many for OpenCV; {limit}", True)
    if data.startswith(START) and is_cut(data):
        return Unreadable(CUT)
    try:
        np.empty((2, height, width, 3), np.uint8)
    except MemoryError:
        return Unreadable(f"is too large for the memory ({width} x {height} pixels)", True)
    return Unreadable(f"is cut short or damaged: its {width} x {height} pixels cannot be decoded")


def to_8_bits(image: np.ndarray) -> np.ndarray:
    """Scales an image of any depth by its own range.

    Args:
        image: [h, w] or [h, w, 3]; values that are not finite become 0.

    Returns:
        uint8 [h, w, 3].
    """
    image = image.astype(np.float32 if image.dtype.itemsize < 4 else np.float64)
    finite = np.isfinite(image)
    if not finite.all():
        image[~finite] = image.min(where=finite, initial=np.inf) if finite.any() else 0
    image -= image.min()
    if highest := image.max():
        image /= highest
    image = (image * 255).round().astype(np.uint8)
    return image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
