"""Reading picture files, and saying what is wrong with one."""

from pathlib import Path

import cv2
import numpy as np


def decode_image(data: bytes) -> np.ndarray | None:
    """uint8 [height, width, 3], BGR, turned as the file's EXIF data says; None if it is no picture.

    Strict, other than ``cv2.imread``: that fills a JPEG file which is cut short with grey.
    """
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # no bytes at all, or more pixels than OpenCV takes
        return None


def image_problem(path: Path, size: tuple[int, int]) -> str | None:
    """What is wrong with a picture's file, or None.

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
        return f"{path}: cannot be decoded as a picture"
    height, width = image.shape[:2]
    if (height, width) != size:
        turned = " (turned by its EXIF data?)" if (width, height) == size else ""
        return (
            f"{path}: is {width} x {height} pixels, its annotation says {size[1]} x {size[0]}"
            f"{turned}"
        )
    return None


def _jpeg_ends(data: bytes) -> bool:
    """Whether an end-of-image marker follows the first scan; thumbnails come before it."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xDA:  # start of scan: from here a 0xFF of the data is followed by 0x00
            return data.find(b"\xff\xd9", position) >= 0
        fill = marker == 0xFF
        position += 1 if fill else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return False
