"""What a snapshot is of, in a file beside it, and whether its files are what was saved."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.errors import UserError
from .files import sha256_of


@dataclass(frozen=True)
class Meta:
    """What a snapshot is of.

    Attributes:
        name: the config's name.
        iteration: steps behind these weights.
        class_names: names of the labels 0 … C-1.
        config: its sections, for :func:`core.config.loading.config_from_dict`.
        versions: of Python and PyTorch, by name.
        figures: COCO's, of the validation split, where the weights were kept for them.
        sha256: of the snapshot's other files, by the end of their names.
    """

    name: str
    iteration: int
    class_names: tuple[str, ...]
    config: dict[str, Any]
    versions: dict[str, str]
    figures: dict[str, float | None] | None = None
    sha256: dict[str, str] = dataclasses.field(default_factory=dict, compare=False)


def meta_path(path: Path) -> Path:
    """Where what the snapshot ``path`` is of stands, or would."""
    return path.with_suffix(".json")


def read_meta(path: str | Path) -> Meta | None:
    """What the snapshot ``path`` is of; None when the weights stand alone.

    Raises:
        UserError: the file beside the weights cannot be read.
    """
    file = meta_path(Path(path))
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return Meta(**{**content, "class_names": tuple(content["class_names"])})
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise UserError(
            f"{file} does not describe a snapshot ({type(error).__name__}: {error}); "
            "without that file, the weights are taken alone"
        ) from None


def require_unaltered(path: Path, *others: Path) -> None:
    """Sees that files are what was saved, as far as a checksum says what that was.

    Args:
        path: the weights of a snapshot.
        others: more of its files.

    Raises:
        UserError: one was cut short or altered.
    """
    meta = read_meta(path)
    for file in (path, *others):
        digest = None if meta is None else meta.sha256.get(file.name.removeprefix(path.stem))
        if digest is not None and file.is_file() and sha256_of(file) != digest:
            raise UserError(
                f"{path} is damaged: {file.name} was cut short or altered since it was saved; take "
                "another one, as train.py --resume does"
            )
