"""Snapshots: weights in the reference's own format, what they are of, and how to train on.

``<cache_dir>/nnet/<name>/`` holds, for a run ``name`` and an iteration,

- ``<name>_<iteration>.pkl``: the weights, a bare state dict with keys ``module.…``;
- ``<name>_<iteration>.json``: see :class:`core.checkpoint.meta.Meta`;
- ``<name>_<iteration>.train.pt``: the state of the training, whatever the caller gave, with the
  newest snapshots (:mod:`core.checkpoint.run_directory`);

and ``<name>_best.pkl`` with its ``.json``, the weights with the highest AP on the validation split.

Nothing here runs code that a file brings along: every file is read with ``weights_only=True``.
"""

import dataclasses
import json
import platform
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from ..config.errors import UserError
from .differences import differences
from .files import read_torch_file, write_together
from .meta import Meta, meta_path, read_meta, require_unaltered

_PREFIX = "module."  # what the reference's wrapper of the network puts before every key


def run_folder(cache_dir: str | Path, name: str) -> Path:
    """Where the snapshots and the log of a run are, or would be."""
    return Path(cache_dir) / "nnet" / name


def snapshot_path(cache_dir: str | Path, name: str, iteration: int) -> Path:
    """Where the weights of an iteration are, or would be."""
    return run_folder(cache_dir, name) / f"{name}_{iteration}.pkl"


def training_path(path: Path) -> Path:
    """Where the training state of the snapshot ``path`` is, or would be."""
    return path.with_suffix(".train.pt")


def best_path(cache_dir: str | Path, name: str) -> Path:
    """Where the weights with the highest AP of a run are, or would be."""
    return run_folder(cache_dir, name) / f"{name}_best.pkl"


def newest_snapshot(cache_dir: str | Path, name: str) -> tuple[Path, int] | None:
    """The snapshot with the highest iteration and that iteration; None when there is none."""
    there = iterations(cache_dir, name)
    return (snapshot_path(cache_dir, name, there[-1]), there[-1]) if there else None


def iterations(cache_dir: str | Path, name: str) -> list[int]:
    """Iterations of the snapshots of a run, ascending."""
    return _iterations(snapshot_path(cache_dir, name, 0))


def save_snapshot(
    path: Path,
    network: nn.Module | Mapping[str, Tensor],
    training_state: Mapping[str, Any] | None,
    meta: Meta,
) -> None:
    """Writes the files of a snapshot.

    Each is written whole beside its place before any takes it, and the weights come last: where
    there is a ``.pkl``, the others belong to it, whenever the process was killed.

    Args:
        path: from :func:`snapshot_path` or :func:`best_path`; folders are made.
        network: whose state dict is saved; or a state dict.
        training_state: for :func:`load_training_state`; tensors and plain Python values only.
            None: weights that nobody trains on.
        meta: see :class:`Meta`; its sha256 are filled in.

    Raises:
        OSError: a file could not be written; what was there before is still there.
    """
    state_dict = network.state_dict() if isinstance(network, nn.Module) else network
    weights = {_PREFIX + key: value.detach().cpu() for key, value in state_dict.items()}

    digests: dict[Path, str] = {}

    def describe(file: BinaryIO) -> None:
        sha256 = {other.name.removeprefix(path.stem): digests[other] for other in digests}
        content = dataclasses.asdict(dataclasses.replace(meta, sha256=sha256))
        file.write(json.dumps(content, indent=2, ensure_ascii=False).encode())

    path.parent.mkdir(parents=True, exist_ok=True)
    writers: dict[Path, Callable[[BinaryIO], Any]] = {path: lambda file: torch.save(weights, file)}
    if training_state is not None:
        writers[training_path(path)] = lambda file: torch.save(dict(training_state), file)
    write_together({**writers, meta_path(path): describe}, digests)


def versions() -> dict[str, str]:
    """Versions that a snapshot remembers."""
    return {"python": platform.python_version(), "torch": str(torch.__version__)}


def require_snapshot(path: Path) -> None:
    """Sees that there are weights at ``path``.

    Raises:
        UserError: there are none; the message lists those of the same run.
    """
    if not path.is_file():
        there = ", ".join(map(str, _iterations(path)))
        raise UserError(
            f"there is no snapshot {path}; in that folder there is "
            + (f"one of each of the iterations {there}" if there else "none")
        )


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Reads weights, ours, the reference's or CenterNet's.

    Args:
        path: a bare state dict, or a dictionary that holds one as ``state_dict``.

    Returns:
        Tensors on the CPU by key, without the leading ``module.``.

    Raises:
        UserError: no such file, cut short, no weights in it, or code in it.
    """
    path = Path(path)
    require_snapshot(path)
    content = read_torch_file(path)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise UserError(f"{path} holds no weights: a dictionary of tensors by name was expected")
    return {key.removeprefix(_PREFIX): value for key, value in content.items()}


def load_weights(
    network: nn.Module,
    path: str | Path,
    class_head_keys: Iterable[str],
    fine_tune: bool = False,
    verify: bool = True,
) -> list[str]:
    """Loads weights into a network in place; either all of them fit, or nothing is changed.

    Args:
        network: takes the weights.
        path: see :func:`read_weights`.
        class_head_keys: prefixes of the keys whose shape depends on the number of classes.
        fine_tune: leave class heads of another shape as they are, freshly initialised.
        verify: see that the weights are what was saved, where there is a checksum.

    Returns:
        The keys that were left as they are; none unless ``fine_tune``.

    Raises:
        UserError: see :func:`read_weights` and :func:`require_unaltered`; or the weights are
            another network's: the message lists the differences.
    """
    path = Path(path)
    if verify:
        require_unaltered(path)
    weights, own = read_weights(path), network.state_dict()
    found = differences(own, weights)
    heads = [key for key in found.reshaped if key.startswith(tuple(class_head_keys))]
    only_heads = bool(heads) and found.count == len(heads)
    if found.count and not (fine_tune and only_heads):
        hint = "; --weights FILE fine-tunes to another number of classes" if only_heads else ""
        raise UserError(f"{path} does not fit this network ({_origin(path)}): {found}{hint}")
    network.load_state_dict({**own, **{k: v for k, v in weights.items() if k not in heads}})
    return heads


def load_training_state(path: str | Path) -> dict[str, Any] | None:
    """The training state that was saved with the snapshot ``path``; None for bare weights.

    Raises:
        UserError: the file is cut short, or has code in it.
    """
    state_path = training_path(Path(path))
    return read_torch_file(state_path) if state_path.is_file() else None


def _iterations(path: Path) -> list[int]:
    """Iterations of the snapshots of the run whose file ``path`` is, ascending."""
    run = re.escape(path.stem.rpartition("_")[0])
    matches = (re.fullmatch(rf"{run}_(\d+)\.pkl", file.name) for file in path.parent.glob("*.pkl"))
    return sorted(int(match[1]) for match in matches if match)


def _origin(path: Path) -> str:
    meta = read_meta(path)
    if meta is None:
        return "nothing beside it says what it is of"
    return f"it is of {meta.name}, {len(meta.class_names)} classes, iteration {meta.iteration}"
