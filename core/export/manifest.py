"""What is written into an exported file beside the network: how to lay out images, and class names.

It is text by name, as ONNX's ``metadata_props`` are; every value but the plain names is JSON.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config.errors import UserError
from ..inference.centers import CenterSettings, Geometry
from ..inference.corners import CornerSettings
from ..inference.saccade import SaccadeSettings
from .geometry import Settings, Sides

FORMAT = "cornerkit-detector-1"

FAMILIES: dict[str, type[Settings]] = {
    "corners": CornerSettings,
    "centers": CenterSettings,
    "saccade": SaccadeSettings,
}


@dataclass(frozen=True)
class Manifest:
    """A description of an exported detector.

    Attributes:
        config: name of the config that the detector was built from.
        model: its ``model_name``.
        snapshot: name of the file of its weights.
        class_names: C names.
        height, width: the sides that the file's images can have.
        settings: layout of the images, scales, mirroring and suppression.
    """

    config: str
    model: str
    snapshot: str
    class_names: tuple[str, ...]
    height: Sides
    width: Sides
    settings: Settings

    @property
    def family(self) -> str:
        """A key of :data:`FAMILIES`."""
        return next(name for name, kind in FAMILIES.items() if isinstance(self.settings, kind))

    @property
    def dtype(self) -> str:
        """Type of the pixels: crops of CornerNet-Saccade are resized to fractions of a level."""
        return "float32" if self.family == "saccade" else "uint8"

    def as_metadata(self) -> dict[str, str]:
        """Converts the description to text by name; :func:`read_manifest` reads it back."""
        return {
            "format": FORMAT,
            "config": self.config,
            "model": self.model,
            "snapshot": self.snapshot,
            "family": self.family,
            "class_names": json.dumps(self.class_names, ensure_ascii=False),
            "input": json.dumps(
                {
                    "layout": "BCHW",
                    "color": "BGR",
                    "dtype": self.dtype,
                    "range": [0, 255],
                    "height": dataclasses.asdict(self.height),
                    "width": dataclasses.asdict(self.width),
                }
            ),
            "settings": json.dumps(dataclasses.asdict(self.settings)),
        }


def read_manifest(metadata: Mapping[str, str], where: str) -> Manifest:
    """Reads the description of an exported detector.

    Args:
        metadata: text by name, as :meth:`Manifest.as_metadata` gives.
        where: the file, for messages.

    Raises:
        UserError: it is of another program, or of another version of this one.
    """
    if "format" not in metadata or "settings" not in metadata:
        raise UserError(
            f"{where} has no description of a detector in it; `cornerkit export` writes such files"
        )
    try:
        assert metadata["format"] == FORMAT
        given, settings = json.loads(metadata["input"]), json.loads(metadata["settings"])
        if "geometry" in settings:
            settings["geometry"] = Geometry(**_as_tuples(settings["geometry"]))
        return Manifest(
            config=metadata["config"],
            model=metadata["model"],
            snapshot=metadata["snapshot"],
            class_names=tuple(json.loads(metadata["class_names"])),
            height=Sides(**given["height"]),
            width=Sides(**given["width"]),
            settings=FAMILIES[metadata["family"]](**_as_tuples(settings)),
        )
    except (AssertionError, KeyError, TypeError, ValueError):
        raise UserError(
            f"{where} was exported by another version of cornerkit; export it again"
        ) from None


def _as_tuples(value: Any) -> Any:
    """Converts JSON's lists to tuples, also inside of dictionaries and lists."""
    if isinstance(value, dict):
        return {key: _as_tuples(inner) for key, inner in value.items()}
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value
