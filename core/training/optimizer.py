"""The optimizer and its learning rate, by step."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..config.schema import System

_MOMENTUM = 0.9  # of SGD
_WEIGHT_DECAY: dict[str, float] = {"adam": 0, "sgd": 0.0001, "adamw": 0.05}
_FACTOR = "lr_factor"  # key of a group: factor on the learning rate; without it, 1
_KEPT = ("weight_decay", _FACTOR, "lr", "capturable")  # of a group when a state is loaded
_FLOOR = 0.01  # of the learning rate, at the end of the cosine schedule


def build_optimizer(
    parameters: Iterable[nn.Parameter],
    algorithm: Literal["adam", "sgd", "adamw"],
    learning_rate: float,
    weight_decay: float | None = None,
    backbone: Iterable[nn.Parameter] = (),
    backbone_lr: float = 1.0,
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
        backbone: those of the parameters that are the backbone's.
        backbone_lr: factor on their learning rate. With 1, they are in the groups of the others.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    decay = _WEIGHT_DECAY[algorithm] if weight_decay is None else weight_decay
    devices = {parameter.device.type for parameter in trained}
    fused = devices <= {"cpu", "cuda"}
    options: dict[str, Any] = {"lr": learning_rate, "weight_decay": decay, "fused": fused}
    slow = set() if backbone_lr == 1 else {id(parameter) for parameter in backbone}
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in trained if id(parameter) not in slow]}
    ]
    if slow:
        params = [parameter for parameter in trained if id(parameter) in slow]
        groups.append({"params": params, _FACTOR: backbone_lr, "lr": learning_rate * backbone_lr})
    if devices == {"cuda"}:  # a CUDA graph of a step reads the learning rate from memory
        for group in groups:
            rate = group.get("lr", learning_rate)
            group["lr"] = torch.tensor(rate, dtype=torch.float32, device=trained[0].device)
        if algorithm != "sgd":
            options["capturable"] = True
    if algorithm == "adam":
        return torch.optim.Adam(groups, **options)
    if algorithm == "sgd":
        return torch.optim.SGD(groups, momentum=_MOMENTUM, **options)
    return torch.optim.AdamW(list(_without_decay_of_vectors(groups)), **options)


def _without_decay_of_vectors(groups: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Splits each group in two, of which the second, with biases and batch norms, has no decay."""
    for group in groups:
        params = group["params"]
        yield {**group, "params": [parameter for parameter in params if parameter.ndim > 1]}
        vectors = [parameter for parameter in params if parameter.ndim <= 1]
        yield {**group, "params": vectors, "weight_decay": 0.0}


def load_optimizer_state_(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Loads the state of an optimizer of the same kind.

    Weight decay and the factor on the backbone's learning rate stay those of the config. The
    learning rate is that of each step, and its kind that of the device.

    Args:
        optimizer: optimizer that :func:`build_optimizer` made.
        state: ``state_dict()`` of one that was made for the same parameters.
    """
    configured = [
        {key: group[key] for key in _KEPT if key in group} for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(dict(state))
    for group, own in zip(optimizer.param_groups, configured, strict=True):
        group.update(own)


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
    """Sets the optimizer's learning rates to those of a step.

    Returns:
        The learning rate without the factor on that of the backbone.
    """
    learning_rate = learning_rate_at(iteration, system)
    for group in optimizer.param_groups:
        rate = learning_rate * group.get(_FACTOR, 1)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
    return learning_rate
