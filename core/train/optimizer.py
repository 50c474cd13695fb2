"""The optimiser and its learning rate, by step."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

_MOMENTUM, _WEIGHT_DECAY = 0.9, 0.0001  # of SGD


def build_optimizer(
    parameters: Iterable[nn.Parameter], algorithm: Literal["adam", "sgd"], learning_rate: float
) -> torch.optim.Optimizer:
    """Makes the reference's optimisers.

    Args:
        parameters: of the network; those that need no gradient are left out.
        algorithm: ``adam`` with PyTorch's defaults, or ``sgd`` with momentum and weight decay.
        learning_rate: at the start.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in trained)
    if algorithm == "adam":
        return torch.optim.Adam(trained, lr=learning_rate, fused=fused)
    return torch.optim.SGD(
        trained, lr=learning_rate, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY, fused=fused
    )


def learning_rate_at(
    iteration: int, learning_rate: float, stepsize: int, decay_rate: float
) -> float:
    """The rate of one step: divided by ``decay_rate`` after every ``stepsize`` steps.

    Args:
        iteration: number of the step, from 1; step ``stepsize`` is the last with the first rate.
        learning_rate: of step 1.
        stepsize: steps between two divisions.
        decay_rate: the divisor.
    """
    return learning_rate / decay_rate ** ((iteration - 1) // stepsize)


def set_learning_rate_(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Sets the rate of the optimiser's next step."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
