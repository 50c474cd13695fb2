"""Weights that do not go into a network: their differences from it, and tensors without numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..config.errors import UserError

_SHOWN = 3  # keys of each kind that a message names


@dataclass(frozen=True)
class Differences:
    """Keys in which weights differ from a network's; as a string, the end of a message.

    Attributes:
        missing: keys that the weights lack.
        unexpected: keys that the network lacks.
        reshaped: keys that both have, and their two shapes.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: Mapping[str, str]

    @property
    def count(self) -> int:
        """Number of keys that differ."""
        return len(self.missing) + len(self.unexpected) + len(self.reshaped)

    def __str__(self) -> str:
        shapes = tuple(f"{key} {shapes}" for key, shapes in self.reshaped.items())
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "of another shape": shapes}
        return "; ".join(_some(kind, items) for kind, items in kinds.items() if items)


def differences(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Differences:
    """Compares the keys and shapes of weights with a network's own.

    Args:
        own: the network's state dict.
        weights: a state dict.
    """
    return Differences(
        missing=tuple(key for key in own if key not in weights),
        unexpected=tuple(key for key in weights if key not in own),
        reshaped={
            key: f"{_shape(weights[key])} instead of {_shape(own[key])}"
            for key in own
            if key in weights and own[key].shape != weights[key].shape
        },
    )


def require_numbers(weights: Mapping[str, Tensor], path: Path) -> None:
    """Refuses tensors that no network computes with: sparse, quantized, complex, not finite.

    Args:
        weights: a state dict.
        path: the file that it is of, for messages.

    Raises:
        UserError: there is one; the message has its key.
    """
    for key, value in weights.items():
        plain = value.layout is torch.strided and not (value.is_quantized or value.is_meta)
        if not plain or value.is_complex():
            raise UserError(f"{path} has no plain numbers for {key}; save it as a dense tensor")
        if not bool(value.isfinite().all()):
            raise UserError(
                f"{path} has NaN or infinite numbers in {key}; take an earlier snapshot"
            )


def _some(kind: str, items: tuple[str, ...]) -> str:
    more = ", …" if len(items) > _SHOWN else ""
    return f"{len(items)} {kind}: {', '.join(items[:_SHOWN])}{more}"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
