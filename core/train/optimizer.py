"""The optimizer and its learning rate, by step."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import nn

from ..config.schema import System

_MOMENTUM = 0.9  # of SGD
_WEIGHT_DECAY: dict[str, float] = {"adam": 0, "sgd": 0.0001, "adamw": 0.05}
_FLOOR = 0.01  # of the learning rate, at the end of the cosine schedule


def build_optimizer(
    parameters: Iterable[nn.Parameter],
    algorithm: Literal["adam", "sgd", "adamw"],
    learning_rate: float,
    weight_decay: float | None = None,
) -> torch.optim.Optimizer:
    """Makes one of the reference's optimizers, or AdamW.

    Args:
        parameters: parameters of the network; those that need no gradient are left out.
        algorithm: ``adam`` with PyTorch's defaults, ``sgd`` with momentum, or ``adamw`` with
            PyTorch's defaults (Loshchilov and Hutter 2019, arXiv:1711.05101).
        learning_rate: rate of the first step.
        weight_decay: for ``adam`` and ``sgd``, this times each parameter is added to its gradient.
            ``adamw`` makes each weight smaller by this times the learning rate times the weight,
            but decays no biases, and no weights of batch norms. None: 0 for ``adam``, 0.0001 for
            ``sgd``, 0.05 for ``adamw``.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    decay = _WEIGHT_DECAY[algorithm] if weight_decay is None else weight_decay
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in trained)
    options: dict[str, Any] = {"lr": learning_rate, "weight_decay": decay, "fused": fused}
    if algorithm == "adam":
        return torch.optim.Adam(trained, **options)
    if algorithm == "sgd":
        return torch.optim.SGD(trained, momentum=_MOMENTUM, **options)
    weights = [parameter for parameter in trained if parameter.ndim > 1]
    others = [parameter for parameter in trained if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, **options)


def load_optimizer_state_(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Loads the state of an optimizer of the same kind; the weight decay stays that of the config.

    Args:
        optimizer: optimizer that :func:`build_optimizer` made.
        state: ``state_dict()`` of one that was made for the same parameters.
    """
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(state))
    for group, decay in zip(optimizer.param_groups, decays, strict=True):
        group["weight_decay"] = decay


def learning_rate_at(iteration: int, system: System) -> float:
    """Learning rate of a step.

    With the schedule ``step`` it is divided by ``decay_rate`` after every ``stepsize`` steps. With
    ``cosine`` it falls along half a cosine from ``learning_rate``, in the last step of the warm-up
    or in step 1, to 1 % of it in step ``max_iter`` (Loshchilov and Hutter 2017, arXiv:1608.03983,
    equation 5, without restarts). In the first ``warmup`` steps, either is multiplied by
    ``iteration / warmup``.

    Args:
        iteration: number of the step, from 1; step ``stepsize`` is the last with the first rate.
        system: the schedule: ``schedule``, ``learning_rate``, ``warmup``, ``max_iter``,
            ``stepsize`` and ``decay_rate``.
    """
    rate = system.learning_rate
    if system.schedule == "step":
        rate /= system.decay_rate ** ((iteration - 1) // system.stepsize)
    else:
        start = max(1, system.warmup)
        part = min(1.0, max(0, iteration - start) / max(1, system.max_iter - start))
        rate *= _FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * part))
    return rate * iteration / system.warmup if iteration < system.warmup else rate


def set_learning_rate_(optimizer: torch.optim.Optimizer, iteration: int, system: System) -> float:
    """Sets the optimizer's learning rate to that of a step, and returns it."""
    learning_rate = learning_rate_at(iteration, system)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    return learning_rate
