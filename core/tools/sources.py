"""What `detect` reads: images, folders, patterns, videos and webcams that a user names."""

import glob
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..config.errors import UserError
from ..data.file_names import is_system_file

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
VIDEOS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"})

_KINDS = ", ".join(sorted(IMAGES | VIDEOS))
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # longer than the letter of a drive
_WEB = frozenset({"http", "https", "ftp", "s3", "gs"})


@dataclass(frozen=True)
class Source:
    """An image, a video or a webcam.

    Attributes:
        kind: which of them.
        path: the file; of a webcam a name for its recording, such as ``webcam_0``.
        camera: number of the webcam.
    """

    kind: Literal["image", "video", "webcam"]
    path: Path
    camera: int = 0

    def __str__(self) -> str:
        return f"webcam {self.camera}" if self.kind == "webcam" else str(self.path)


def find_sources(inputs: Iterable[str | Path]) -> list[Source]:
    """Lists what a user named: files, webcams, and the images and videos of folders and patterns.

    Args:
        inputs: images, videos, folders, patterns such as ``photos/**/*.jpg``, numbers of webcams.
            A file or folder that exists is taken as that, whatever its name looks like.

    Returns:
        Each source once, in the order of the inputs; within a folder or pattern by name.

    Raises:
        UserError: an input does not exist, is a URL, or a folder or pattern without any image or
            video.
    """
    sources: list[Source] = []
    for given in map(str, inputs):
        sources += _find(given)
    return list(dict.fromkeys(sources))


def _find(given: str) -> list[Source]:
    path = Path(given)
    url = _URL.match(given)
    if url:
        raise UserError(f"{given} is a URL, which detect does not open; {_advice(url[1], given)}")
    if path.is_dir():
        inside = list(_in_folder(path))
        if not inside:
            raise UserError(f"the folder {path} holds no image or video ({_KINDS})")
        return inside
    if path.is_file():
        return [_of_file(path)]
    if given.isascii() and given.isdecimal():
        return [Source("webcam", Path(f"webcam_{int(given)}"), int(given))]
    if glob.has_magic(given):
        return _matching(given)
    raise UserError(f"there is no image, folder or video {path}")


def _advice(scheme: str, url: str) -> str:
    """What to do about a URL."""
    if scheme.lower() in _WEB:
        return "download it first, and name the file"
    if scheme.lower() == "file":
        return "name the file without file://"
    return f"record it first, as with ffmpeg -i {url} -t 60 clip.mp4, and name the file"


def _matching(pattern: str) -> list[Source]:
    """Lists what a pattern fits, as if a shell had put the names in its place.

    Raises:
        UserError: it fits neither images nor videos.
    """
    found: list[Source] = []
    for path in map(Path, sorted(glob.glob(pattern, recursive=True))):
        if path.is_dir():
            found += _in_folder(path)
        elif _is_ours(path):
            found.append(_of_file(path))
    if not found:
        raise UserError(f"the pattern {pattern} fits no image or video ({_KINDS})")
    return found


def _in_folder(folder: Path) -> Iterator[Source]:
    return (_of_file(file) for file in sorted(folder.iterdir()) if _is_ours(file))


def _is_ours(file: Path) -> bool:
    return file.suffix.lower() in IMAGES | VIDEOS and not is_system_file(file.name)


def _of_file(file: Path) -> Source:
    return Source("video" if file.suffix.lower() in VIDEOS else "image", file)
