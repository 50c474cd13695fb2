"""JPEG files (ITU-T T.81): the size in their header, and whether their image data is whole.

libjpeg decodes a damaged file without an error and invents what is missing. Whether it needed more
data than there is can still be seen from outside: bytes put behind the data then change the image.
"""

import re
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np

START, END = b"\xff\xd8", b"\xff\xd9"
CUT = "is cut short (a JPEG file without its end)"

# Markers (T.81, table B.1): start of frame, start of scan, and those of sequential frames.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN, _APP1 = 0xDA, 0xE1
_SEQUENTIAL = (0xC0, 0xC1)
_CMYK = b"\x04"  # number of channels
_ORIENTATION = 0x0112  # tag of TIFF and EXIF
# In the data of a scan 0xFF is followed by 0, by a restart marker or by another 0xFF.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")

_GREY = 128  # value of all channels of a block without data
_ZEROS = bytes(64)  # natural images have no such data
_TAIL = 32  # bytes at the end of an image's data, a few blocks
_NOISE = bytes(range(1, 251, 3))  # data of some blocks

Decode = Callable[[bytes], np.ndarray | None]


def jpeg_damage(data: bytes, image: np.ndarray, decode: Decode) -> str | None:
    """Finds out whether a JPEG file lacks image data although it could be decoded.

    That takes microseconds, except for files that look odd (zeros, a grey corner, bytes after the
    end of one that is not sequential): those are decoded again, up to three times.

    Args:
        data: the content of the file.
        image: uint8 [h, w, 3], what ``decode`` gives for it.
        decode: decodes a file.

    Returns:
        What is wrong, or None.
    """
    scan, sequential = _first_scan(data)
    end = -1
    if scan:
        ends = sequential and data.endswith(END)
        end = len(data) - len(END) if ends else data.find(END, scan)
    if end < 0:
        return CUT
    trailer = end + len(END) < len(data) and not sequential
    corners = image[:: max(1, len(image) - 1), :: max(1, image.shape[1] - 1)]
    odd = trailer or (corners == _GREY).all(2).any()
    if not odd and data.find(_ZEROS, scan, end) < 0:
        return None
    end = _end(data, scan)
    zeros = data.find(_ZEROS, scan, end) >= 0
    if not odd and not zeros:  # they come after the image
        return None
    if not _is_complete(data[:end], image, decode):
        return "is damaged: its JPEG data ends before the image does"
    # Zeros are image data where an encoder's shortest codes meet a flat area; then the image needs
    # all data up to the end. Or they fill the file up, and it needs nothing from there on.
    if zeros and _is_complete(data[: end - _TAIL], image, decode):
        last = data.rfind(_ZEROS, scan, end) + len(_ZEROS)
        if not _is_complete(data[:last].rstrip(b"\0") + bytes(2), image, decode):
            return "is damaged: zeros replace a part of its JPEG data"
    return None


def _first_scan(data: bytes) -> tuple[int, bool]:
    """Finds the first scan, 0 if there is none; tells if its frame is sequential, and no CMYK.

    Missing data of such a frame gives blocks of one grey.
    """
    sequential = False
    for marker, start, _ in _segments(data):
        if marker in _FRAMES:
            sequential = marker in _SEQUENTIAL and data[start + 5 : start + 6] != _CMYK
        elif marker == _SCAN:
            return start, sequential
    return 0, sequential


def is_cut(data: bytes) -> bool:
    """True if the marker of the end is missing; thumbnails, which have one, come before a scan."""
    scan, _ = _first_scan(data)
    return not scan or data.find(END, scan) < 0


def _is_complete(data: bytes, image: np.ndarray, decode: Decode) -> bool:
    """True if ``image`` does not depend on what follows ``data``, which is without its end."""
    other = decode(data + _NOISE + END)
    return other is not None and np.array_equal(other, image)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Lists the segments up to the first scan: marker, first byte after its length, last byte + 1.

    A segment may reach beyond ``data``.
    """
    position = len(START)
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # a byte that fills up
            position += 1
            continue
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        yield marker, position + 4, end
        if marker == _SCAN:
            return
        position = end


def _end(data: bytes, scan: int) -> int:
    """Finds the marker of the end behind all scans, of which the first one starts at ``scan``."""
    position = scan
    while found := _MARKER.search(data, position):
        position = found.start()
        if data[position + 1] == END[1]:
            return position
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return len(data)


def jpeg_header(data: bytes) -> tuple[int, int, int] | None:
    """Reads the height, the width and the EXIF orientation (1 … 8) of a JPEG image.

    Args:
        data: the beginning of a file; height and width are as they are stored.

    Returns:
        None if the header is not whole or not valid.
    """
    orientation = 1
    for marker, start, end in _segments(data):
        if marker == _APP1 and data.startswith(b"Exif\0\0", start):
            orientation = _orientation(data[start + 6 : end])
        elif marker in _FRAMES and start + 5 <= len(data):
            height = int.from_bytes(data[start + 1 : start + 3], "big")
            width = int.from_bytes(data[start + 3 : start + 5], "big")
            return (height, width, orientation) if height and width else None
    return None


def _orientation(exif: bytes) -> int:
    """Reads the orientation of EXIF data (a TIFF directory); 1 if there is none."""
    order: Literal["little", "big"] = "little" if exif.startswith(b"II") else "big"

    def number(position: int, size: int) -> int:
        return int.from_bytes(exif[position : position + size], order)

    first = number(4, 4)
    for row in range(number(first, 2)):
        entry = first + 2 + 12 * row
        if number(entry, 2) == _ORIENTATION:
            value = number(entry + 8, 2)
            return value if 1 <= value <= 8 else 1
    return 1
