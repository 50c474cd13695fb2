"""State dicts as other programs save them: inside other dictionaries, with prefixed keys."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

# Keys under which programs save a state dict. Where there are several, the first of these is taken:
# averaged weights are those that a program evaluates.
WRAPPERS = (
    *("state_dict_ema", "ema_state_dict", "model_ema", "ema"),
    *("state_dict", "model_state_dict", "model_state", "model", "module"),
)
# Prefixes of all keys: of PyTorch's data parallelism, of its compiler, of Lightning's modules.
PREFIXES = ("module.", "_orig_mod.", "model.")
_COMPILED = "_orig_mod."  # of a compiled part of a network, it is in the middle of the keys
_STEPS = "n_averaged"  # a count that torch.optim.swa_utils.AveragedModel saves beside the weights
_DEEPEST = 4  # dictionaries in each other


class Unwrapped(NamedTuple):
    """A state dict as a network has it.

    Attributes:
        weights: tensors by key, without the prefixes.
        note: what was done to get them, for a line of the log; empty for a bare state dict, and for
            one with ``module.`` before its keys, as the reference and this package write it.
    """

    weights: dict[str, Tensor]
    note: str


def unwrap(content: Any) -> Unwrapped | None:
    """Finds the state dict in what ``torch.load`` returned; None if there is none.

    Args:
        content: any object. Dictionaries are searched for the keys :data:`WRAPPERS`, also inside
            each other; the rest of them is not used.
    """
    found = _find(content)
    if found is None:
        return None
    weights, path, others = found
    weights = {key: value for key, value in weights.items() if key != _STEPS} or weights
    weights, prefix = _without_prefixes(weights)
    notes = [f"the weights are its {'.'.join(path)}"] if path else []
    notes += [f"which it has beside {', '.join(others)}"] if others else []
    notes += [f"without the prefix {prefix}"] if prefix not in ("", "module.") else []
    return Unwrapped(weights, ", ".join(notes))


def _find(content: Any, depth: int = 0) -> tuple[Mapping[str, Tensor], list[str], list[str]] | None:
    """Searches an object for a state dict.

    Returns:
        The state dict; the keys that lead to it; other keys beside them that lead to one.
    """
    if not isinstance(content, Mapping) or not content or depth > _DEEPEST:
        return None
    if all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
        return content, [], []
    inside = {name: _find(content.get(name), depth + 1) for name in WRAPPERS}
    for name, found in inside.items():
        if found is not None:
            weights, path, others = found
            beside = [key for key, other in inside.items() if other is not None and key != name]
            return weights, [name, *path], [*beside, *others]
    return None


def _without_prefixes(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Removes what precedes all keys, and the compiler's names within them; returns it, too."""
    weights, removed = dict(weights), ""
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in weights)), ""):
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
        removed += prefix
    if any(_COMPILED in key for key in weights):
        weights = {key.replace(_COMPILED, ""): value for key, value in weights.items()}
        removed += _COMPILED
    return weights, removed
