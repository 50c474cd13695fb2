"""Sizes of images from the headers of their files."""

import io
import threading
from pathlib import Path
from typing import IO, NamedTuple

from PIL import Image

from .jpeg import START, jpeg_header

_ORIENTATION = 0x0112  # tag of EXIF
_PILLOW_LIMIT = threading.Lock()  # held while Pillow's limit of pixels is lifted
_HEADER = 2**16  # bytes that hold most headers


class Header(NamedTuple):
    """Size of an image as it is stored, and its EXIF orientation: 1 … 8, above 4 sideways."""

    height: int
    width: int
    orientation: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width as decoded, the orientation applied."""
        return (self.width, self.height) if self.orientation > 4 else (self.height, self.width)


def read_size(path: Path) -> tuple[int, int] | None:
    """Reads (height, width) of an image as it is decoded, its EXIF rotation applied.

    Args:
        path: the file, of which only the header is read: not EXIF data at the end of a PNG file.

    Returns:
        None if there is no such file, or its header cannot be read.
    """
    header = read_header(path)
    return None if header is None else header.size


def read_header(path: Path) -> Header | None:
    """Reads the header of an image file; None if that cannot be done."""
    try:
        with open(path, "rb") as file:
            data = file.read(_HEADER)
            if not data.startswith(START):
                file.seek(0)
                return _other_header(file)
            found = jpeg_header(data) or jpeg_header(data + file.read())
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return None
    return None if found is None else Header(*found)


def header_of(data: bytes) -> Header | None:
    """Reads the header in the content of an image file; None if that cannot be done."""
    if data.startswith(START):
        found = jpeg_header(data)
        return None if found is None else Header(*found)
    return _other_header(io.BytesIO(data))


def _other_header(file: IO[bytes]) -> Header | None:
    with _PILLOW_LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # no pixels are decoded here
        try:
            with Image.open(file) as image:
                # Without such an entry, Pillow would decode a whole PNG file in search of it.
                has_exif = image.format == "TIFF" or "exif" in image.info
                orientation = image.getexif().get(_ORIENTATION, 1) if has_exif else 1
                return Header(image.height, image.width, orientation)
        except Exception:  # of many kinds: the parser of a header met a damaged file
            return None
        finally:
            Image.MAX_IMAGE_PIXELS = limit
