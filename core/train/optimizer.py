"""The optimizer and its learning rate, by step."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

from ..config.schema import System

_MOMENTUM, _WEIGHT_DECAY = 0.9, 0.0001  # of SGD


def build_optimizer(
    parameters: Iterable[nn.Parameter], algorithm: Literal["adam", "sgd"], learning_rate: float
) -> torch.optim.Optimizer:
    """Makes one of the reference's optimizers.

    Args:
        parameters: parameters of the network; those that need no gradient are left out.
        algorithm: ``adam`` with PyTorch's defaults, or ``sgd`` with momentum and weight decay.
        learning_rate: rate of the first step.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in trained)
    if algorithm == "adam":
        return torch.optim.Adam(trained, lr=learning_rate, fused=fused)
    return torch.optim.SGD(
        trained, lr=learning_rate, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY, fused=fused
    )


def learning_rate_at(iteration: int, system: System) -> float:
    """Learning rate of a step: divided by ``decay_rate`` after every ``stepsize`` steps.

    Args:
        iteration: number of the step, from 1; step ``stepsize`` is the last with the first rate.
        system: the schedule: ``learning_rate``, ``stepsize`` and ``decay_rate``.
    """
    return system.learning_rate / system.decay_rate ** ((iteration - 1) // system.stepsize)


def set_learning_rate_(optimizer: torch.optim.Optimizer, iteration: int, system: System) -> float:
    """Sets the optimizer's learning rate to that of a step, and returns it."""
    learning_rate = learning_rate_at(iteration, system)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    return learning_rate
