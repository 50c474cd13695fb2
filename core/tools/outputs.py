"""What `detect` writes: names for it, chosen and checked before anything is detected."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..config.errors import UserError
from ..data.file_names import output_name
from .sources import IMAGES, Source


@dataclass(frozen=True)
class Outputs:
    """Files and folders that one call of `detect` writes.

    Attributes:
        drawings: the drawing of each source.
        results: file of the detections; None: none is written.
        crops: folder of the objects that are cut out; None: none are.
    """

    drawings: dict[Source, Path]
    results: Path | None = None
    crops: Path | None = None


def plan_outputs(
    sources: Sequence[Source],
    out: Path,
    results: Path | None = None,
    crops: bool = False,
    force: bool = False,
) -> Outputs:
    """Chooses a file in ``out`` for the drawing of each source, named like it, and makes ``out``.

    Args:
        sources: what is read; where two have one name, the later ones get a number.
        out: folder of the drawings; made if it is missing.
        results: file of the detections.
        crops: True: cut objects out into the folder ``crops`` in ``out``.
        force: True: overwrite files from before; never a source.

    Raises:
        UserError: an output is there already, would overwrite a source, or cannot be made.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; name a folder")
    if results is not None and results.is_dir():
        raise UserError(f"--save-json {results} is a folder; name a file")
    outputs = Outputs(_name_drawings(sources, out), results, out / "crops" if crops else None)
    files = [*outputs.drawings.values(), *([] if results is None else [results])]
    read = {source.path.resolve() for source in sources if source.kind != "webcam"}
    for file in files:
        if file.resolve() in read:
            raise UserError(f"{file} would be overwritten; give another folder as --out")
        if file.is_dir():
            raise UserError(f"{file} is a folder; give another folder as --out")
    if not force:
        _require_free(files, outputs.crops)
    _make(out, f"--out {out}")
    if results is not None:
        _make(results.parent, f"the folder of --save-json {results}")
    return outputs


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes an image, completely or not at all; its folder is made if it is missing.

    Args:
        path: the file, of a suffix in :data:`core.tools.sources.IMAGES`.
        image: uint8 [h, w, 3], BGR.

    Raises:
        UserError: it cannot be written.
    """
    try:
        encoded, content = cv2.imencode(path.suffix, image)
    except cv2.error:
        encoded = False
    if not encoded:
        sides = f"{image.shape[1]} x {image.shape[0]} pixels"
        raise UserError(f"{path} cannot be written: {sides} do not fit this kind of file")
    unfinished = unfinished_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content.tobytes())
        os.replace(unfinished, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written: {error.strerror}") from None


def unfinished_path(path: Path) -> Path:
    """Path for a file that is being written, with the same suffix, hidden in its folder."""
    return path.with_name(f".{path.stem}.unfinished{path.suffix}")


def _name_drawings(sources: Sequence[Source], out: Path) -> dict[Source, Path]:
    """Chooses a file in ``out`` for each source; a name that is taken gets a number."""
    targets: dict[Source, Path] = {}
    taken: set[str] = set()
    for source in sources:
        suffix = source.path.suffix.lower() if source.kind == "image" else ".mp4"
        suffix = suffix if suffix in IMAGES | {".mp4"} else ".jpg"
        name, number = output_name(source.path.stem, suffix), 1
        while name.casefold() in taken:
            number += 1
            name = output_name(source.path.stem, f"_{number}{suffix}")
        taken.add(name.casefold())
        targets[source] = out / name
    return targets


def _require_free(files: Sequence[Path], crops: Path | None) -> None:
    """Refuses outputs that are there already, all in one line."""
    there = [file for file in files if os.path.lexists(file)]
    if crops is not None and crops.is_dir() and any(crops.iterdir()):
        there.append(crops)
    if there:
        more = len(there) - 1
        others = f" and {more} more outputs are" if more else " is"
        raise UserError(
            f"{there[0]}{others} there already; --force overwrites {'them' if more else 'it'}, or "
            "give another --out"
        )


def _make(folder: Path, option: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{option} cannot be made: {error.strerror}") from None
