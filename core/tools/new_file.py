"""The file that `cornerkit new` writes: where it lies, and what its base leaves to say."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config.errors import UserError
from ..config.files import CONFIG_DIR, as_text, search_places
from ..config.loading import Config, config_from_dict, load_config
from .new_choice import Content

# Published configs whose recipe is that of this command. The papers' recipes are others, and files
# with them as bases would be no shorter.
BASES = ("CornerNet_Lite0",)


def choose_file(name: str, config_dir: str | None, force: bool) -> Path:
    """Chooses the file of a new config: in ``configs``, if there is that folder, or beside it.

    Args:
        name: the config's name.
        config_dir: the folder instead.
        force: overwrite a config of this name.

    Raises:
        UserError: there is a config of this name.
    """
    places = search_places(config_dir)
    there = [place / f"{name}.json" for place in places if (place / f"{name}.json").exists()]
    if there and not force:
        raise UserError(f"{there[0]} exists; give another name, or --force to take this one anyway")
    if there and there[0].parent != CONFIG_DIR:
        return there[0]  # it would be found before another one
    if config_dir is None:
        folder = Path("configs") if Path("configs").is_dir() else Path()
    else:
        folder = Path(config_dir)
    return folder / f"{name}.json"


def complete(content: Content, detector: str) -> dict[str, Any]:
    """Adds the name of the detector to the sections of a config, or leaves that to its base.

    Args:
        content: sections of the config.
        detector: a key of :data:`.new_recipe.SECTIONS`.

    Returns:
        What the file holds; with a base, the same config in fewer lines.
    """
    if detector not in BASES:
        return {"model_name": detector, **content}
    base = load_config(detector, config_dir=CONFIG_DIR)
    whole = config_from_dict({"model_name": detector, **content}, detector, f"{detector}.json")
    assert set(base.model) <= set(whole.model)  # a base's settings cannot be taken away
    sections = {key: _changed(content.get(key, {}), base, whole, key) for key in ("system", "db")}
    model = {key: value for key, value in whole.model.items() if base.model.get(key) != value}
    sections["model"] = model
    return {"base": detector, **{key: values for key, values in sections.items() if values}}


def write(file: Path, content: Mapping[str, Any]) -> None:
    """Writes the file of a config.

    Raises:
        UserError: it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(as_text(content), encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{file} cannot be written: {error.strerror}; --config-dir names another folder"
        ) from None


def _changed(given: Mapping[str, Any], base: Config, whole: Config, key: str) -> dict[str, Any]:
    """Settings of a section that differ from the base's, those that are given before the others."""
    sections = (dataclasses.asdict(getattr(config, key)) for config in (base, whole))
    of_base, of_whole = (json.loads(json.dumps(section)) for section in sections)
    names = [*given, *(name for name in of_whole if name not in given)]
    return {name: of_whole[name] for name in names if of_whole[name] != of_base[name]}
