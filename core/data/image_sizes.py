"""The size that an image has when it is decoded, from the header of its file."""

from pathlib import Path

from PIL import Image, UnidentifiedImageError

_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 turn the image by a quarter


def read_size(path: Path) -> tuple[int, int] | None:
    """Reads height and width of an image, turned as its EXIF data says; None if it is no image."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(_ORIENTATION, 1) >= 5
            return image.size if turned else (image.height, image.width)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError):
        return None
