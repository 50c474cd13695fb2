"""Snapshots: weights in the reference's format, their description, and the training's state.

``<cache_dir>/nnet/<name>/`` holds, for a run ``name`` and an iteration,

- ``<name>_<iteration>.pkl``: the weights, a bare state dict with keys ``module.…``;
- ``<name>_<iteration>.ema.pkl``: their average over the steps, in the same format, if the run
  averages them (``system.ema``);
- ``<name>_<iteration>.json``: their description, a :class:`Meta`;
- ``<name>_<iteration>.train.pt``: the state of the training, for the newest snapshots;

and ``<name>_best.pkl`` with its ``.json``, the weights with the highest AP on the validation split.
:class:`core.checkpoint.run_directory.RunDirectory` gives these paths; the functions here take the
path of the weights.

Code in a file is never run: every file is read with ``weights_only=True``.
"""

import dataclasses
import json
import logging
import os
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from ..config.errors import UserError
from .differences import differences, require_numbers
from .files import read_torch_file, sha256_of, write_together
from .mmdetection import from_mmdetection
from .wrappers import unwrap

logger = logging.getLogger(__name__)

_PREFIX = "module."  # before every key, from the reference's wrapper of the network
_AVERAGED = ".ema.pkl"  # end of the name of averaged weights
_COUNT = ".num_batches_tracked"  # end of the key of a batch norm's count of batches


@dataclass(frozen=True)
class Meta:
    """Description of a snapshot.

    Attributes:
        name: name of the config.
        iteration: number of steps that trained the weights.
        class_names: names of the labels 0 … C-1.
        config: sections of the config, for :func:`core.config.loading.config_from_dict`.
        versions: versions of Python and PyTorch, by name.
        metrics: COCO's metrics on the validation split; only for the weights with the highest AP.
            In older files they are called ``figures``.
        weights: ``averaged`` or ``raw``: which weights these are; only for those with the highest
            AP, of a run that averages its weights.
        averaged_steps: number of steps in the averaged weights; None if there are none.
        start_number: which start of the run wrote it, later ones have higher numbers; 0: unknown.
        start_iteration: number of steps before that start.
        sha256: checksums of the snapshot's other files, by the end of their names.
    """

    name: str
    iteration: int
    class_names: tuple[str, ...]
    config: dict[str, Any]
    versions: dict[str, str]
    metrics: dict[str, float | None] | None = None
    weights: str | None = None
    averaged_steps: int | None = None
    start_number: int = 0
    start_iteration: int = 0
    sha256: dict[str, str] = dataclasses.field(default_factory=dict, compare=False)


def versions() -> dict[str, str]:
    """Versions of Python and PyTorch, for a description."""
    return {"python": platform.python_version(), "torch": str(torch.__version__)}


def meta_path(path: Path) -> Path:
    """Path of the description of the weights ``path``, raw or averaged."""
    return path.with_name(f"{_stem(path)}.json")


def training_path(path: Path) -> Path:
    """Path of the training state of the weights ``path``."""
    return path.with_name(f"{_stem(path)}.train.pt")


def averaged_path(path: Path) -> Path:
    """Path of the average of the weights ``path``."""
    return path.with_name(f"{_stem(path)}{_AVERAGED}")


def has_averaged_weights(path: Path) -> bool:
    """True if averaged weights were saved together with the weights ``path``, and are there.

    Raises:
        UserError: the description of the weights cannot be read.
    """
    meta = read_meta(path)
    return meta is not None and _AVERAGED in meta.sha256 and averaged_path(path).is_file()


def iteration_in_name(path: Path) -> int | None:
    """Iteration at the end of a file's name, as in ``<name>_<iteration>.pkl``; None without one."""
    match = re.search(r"_(\d+)$", _stem(path))
    return int(match[1]) if match else None


def iterations_in(folder: Path, name: str) -> list[int]:
    """Iterations of the snapshots of the run ``name`` that are in a folder, ascending."""
    pattern = re.compile(rf"{re.escape(name)}_(\d+)\.pkl")
    matches = (pattern.fullmatch(file.name) for file in folder.glob("*.pkl"))
    return sorted(int(match[1]) for match in matches if match)


def save_snapshot(
    path: Path,
    network: nn.Module | Mapping[str, Tensor],
    training_state: Mapping[str, Any] | None,
    meta: Meta,
    averages: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes the files of a snapshot.

    All are written completely to temporary files and then renamed, the weights last: if there is a
    ``.pkl``, the other files belong to it, whenever the process was killed.

    Args:
        path: path of the weights; missing folders are made.
        network: module whose state dict is saved; or a state dict.
        training_state: tensors and plain Python values, for :func:`load_training_state`. None:
            training cannot be resumed from the snapshot.
        meta: description of the snapshot; its ``sha256`` is filled in.
        averages: state dict of the averaged weights; None: there are none, and those of an earlier
            snapshot of this name are deleted.

    Raises:
        OSError: a file could not be written; the files from before are still there.
    """
    state_dict = network.state_dict() if isinstance(network, nn.Module) else network
    digests: dict[Path, str] = {}

    def describe(file: BinaryIO) -> None:
        sha256 = {other.name.removeprefix(_stem(path)): digests[other] for other in digests}
        content = dataclasses.asdict(dataclasses.replace(meta, sha256=sha256))
        file.write(json.dumps(content, indent=2, ensure_ascii=False).encode())

    path.parent.mkdir(parents=True, exist_ok=True)
    contents: dict[Path, dict[str, Any]] = {path: _with_prefix(state_dict)}
    if averages is not None:
        contents[averaged_path(path)] = _with_prefix(averages)
    if training_state is not None:
        contents[training_path(path)] = dict(training_state)
    writers = {file: partial(torch.save, content) for file, content in contents.items()}
    write_together({**writers, meta_path(path): describe}, digests)
    if averages is None:
        averaged_path(path).unlink(missing_ok=True)


def require_snapshot(path: Path) -> None:
    """Checks that there are weights at ``path``.

    Raises:
        UserError: there are none; the message lists those of the same run.
    """
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder; name a file of weights in it")
    if not os.path.isfile(path):
        iterations = iterations_in(path.parent, _stem(path).rpartition("_")[0])
        there = ", ".join(map(str, iterations))
        raise UserError(
            f"there is no snapshot {path}; in that folder there is "
            + (f"one of each of the iterations {there}" if there else "none")
        )


def read_meta(path: str | Path) -> Meta | None:
    """Reads the description of the weights ``path``; None if there is none.

    Raises:
        UserError: the description cannot be read.
    """
    file = meta_path(Path(path))
    if not os.path.isfile(file):
        return None
    try:
        return _meta_from(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError, OSError, RecursionError) as error:
        raise UserError(
            f"{file} does not describe a snapshot ({type(error).__name__}: {error}); "
            "without that file, the weights are loaded alone"
        ) from None


def _meta_from(content: dict[str, Any]) -> Meta:
    """Makes a description from the content of its file; entries of later versions are left out.

    Raises:
        TypeError, KeyError: it is not that of a description.
    """
    if not isinstance(content, dict):
        raise TypeError("it holds no entries")
    if "figures" in content:
        content["metrics"] = content.pop("figures")
    known = {field.name for field in dataclasses.fields(Meta)}
    meta = Meta(**{key: value for key, value in content.items() if key in known})
    names = content["class_names"]
    kinds: dict[str, type] = {"name": str, "config": dict, "sha256": dict}
    kinds |= {"iteration": int, "start_number": int, "start_iteration": int}
    for key, kind in kinds.items():
        if not isinstance(getattr(meta, key), kind):
            raise TypeError(f"{key} has another type")
    if not isinstance(names, list) or not names or not all(isinstance(x, str) for x in names):
        raise TypeError("class_names is no list of names")
    return dataclasses.replace(meta, class_names=tuple(names))


def corruption(path: Path) -> str | None:
    """Problem that makes a snapshot differ from what was saved; None if it is valid."""
    try:
        meta = read_meta(path)
        if meta is None:
            return f"there is no {meta_path(path).name} that describes it"
        averaged = [averaged_path(path)] if _AVERAGED in meta.sha256 else []
        for file in (path, training_path(path), *averaged):
            digest = meta.sha256.get(file.name.removeprefix(_stem(path)))
            if digest is None:
                return f"it was saved without a checksum of {file.name}"
            if not file.is_file():
                return f"{file.name} is not there any more"
            if sha256_of(file) != digest:
                return f"{file.name} was cut short or altered"
    except (UserError, OSError) as error:
        return str(error)
    return None


def require_unaltered(path: Path, *others: Path) -> None:
    """Checks the files of a snapshot against their checksums, if the description has any.

    Args:
        path: the weights.
        others: other files of the snapshot.

    Raises:
        UserError: a file was cut short or altered.
    """
    meta = read_meta(path)
    for file in (path, *others):
        digest = None if meta is None else meta.sha256.get(file.name.removeprefix(_stem(path)))
        if digest is not None and file.is_file() and sha256_of(file) != digest:
            raise UserError(
                f"{path} is corrupt: {file.name} was cut short or altered since it was saved; take "
                "another one, as train.py --resume does"
            )


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Reads weights: ours, the reference's, or those of other programs.

    A line of the log says what was done to weights that are neither ours nor the reference's.

    Args:
        path: file with a bare state dict, or with one in dictionaries that
            :func:`core.checkpoint.wrappers.unwrap` knows. Those of mmdetection's detectors get our
            keys (:mod:`core.checkpoint.mmdetection`).

    Returns:
        Tensors on the CPU by key, without prefixes such as ``module.``.

    Raises:
        UserError: no such file, cut short, no weights in it, code in it, or the weights of a
            network that is known not to be here.
    """
    path = Path(path)
    require_snapshot(path)
    found = unwrap(read_torch_file(path))
    if found is None:
        raise UserError(f"{path} holds no weights: a dictionary of tensors by name was expected")
    weights, renamed = from_mmdetection(found.weights, str(path))
    notes = [note for note in (found.note, renamed) if note]
    if notes:
        logger.info("%s: %s", path, "; ".join(notes))
    return weights


def load_training_state(path: str | Path) -> dict[str, Any] | None:
    """Reads the training state of the weights ``path``; None if there is none.

    Raises:
        UserError: the file is cut short, or has code in it.
    """
    state_path = training_path(Path(path))
    return read_torch_file(state_path) if state_path.is_file() else None


def load_weights(
    network: nn.Module,
    path: str | Path,
    class_head_keys: Iterable[str],
    fine_tune: bool = False,
    verify: bool = True,
    pairing_head_keys: Iterable[str] = (),
) -> list[str]:
    """Loads weights into a network in place; either all of them fit, or nothing is changed.

    Args:
        network: network that gets the weights.
        path: a file that :func:`read_weights` reads.
        class_head_keys, fine_tune, pairing_head_keys: as for :func:`fit_weights_`.
        verify: compare the file with its checksum, if there is one.

    Returns:
        The keys that were left as they are; none unless ``fine_tune``.

    Raises:
        UserError: the file is missing or corrupt, or has no weights, or those of another network;
            the message then lists the differences.
    """
    path = Path(path)
    if verify:
        require_unaltered(path)
    weights = read_weights(path)
    return fit_weights_(network, weights, path, class_head_keys, fine_tune, pairing_head_keys)


def fit_weights_(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    path: Path,
    class_head_keys: Iterable[str],
    fine_tune: bool = False,
    pairing_head_keys: Iterable[str] = (),
) -> list[str]:
    """Puts weights that were read into a network, as :func:`load_weights`.

    Counts of batches, which batch norms have since PyTorch 0.4.1, may be missing: they are set to
    0, with a line of the log.

    Args:
        network: network that gets the weights.
        weights: tensors by the network's keys.
        path: the file that they are of, for messages.
        class_head_keys: prefixes of the keys whose shape depends on the number of classes.
        fine_tune: leave class heads of another shape, and the heads that pair corners if the
            weights have those of another pairing, as they are, newly initialised.
        pairing_head_keys: prefixes of the keys of heads that pair corners.
    """
    own = network.state_dict()
    counts = {
        key: torch.zeros_like(value)
        for key, value in own.items()
        if key.endswith(_COUNT)
        and key not in weights
        and f"{key.removesuffix(_COUNT)}.running_mean" in weights
    }
    weights = {**weights, **counts}
    require_numbers(weights, path)
    found = differences(own, weights)
    classes, pairing = tuple(class_head_keys), tuple(pairing_head_keys)
    left = [key for key in found.reshaped if key.startswith(classes)]
    left += [key for key in found.missing if key.startswith(pairing)]
    unused = [key for key in found.unexpected if key.startswith(pairing)]
    only_heads = found.count == len(left) + len(unused)
    if found.count and not (fine_tune and only_heads):
        hint = "; train.py --weights FILE fine-tunes with new heads" if only_heads else ""
        raise UserError(f"{path} does not fit this network ({_origin(path)}): {found}{hint}")
    if counts:
        logger.info("%s: batch norms without a count of batches, set to 0: %d", path, len(counts))
    fitting = {key: weights[key] for key in own if key in weights and key not in left}
    network.load_state_dict({**own, **fitting})
    return left


def _stem(path: Path) -> str:
    """Part of a file's name that all files of its snapshot begin with."""
    return path.name.removesuffix(_AVERAGED) if path.name.endswith(_AVERAGED) else path.stem


def _with_prefix(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights as they are written: on the CPU, by the keys of the reference."""
    return {_PREFIX + key: value.detach().cpu() for key, value in state_dict.items()}


def _origin(path: Path) -> str:
    meta = read_meta(path)
    if meta is None:
        return f"there is no {meta_path(path).name} that describes it"
    return f"it is of {meta.name}, {len(meta.class_names)} classes, iteration {meta.iteration}"
