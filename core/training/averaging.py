"""The average of a run's weights over its steps, which often detects better than the last ones."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..distributed import Ranks


class AveragedWeights:
    """Exponential moving average of a network's weights and running statistics.

    It starts from the weights that the network has now. In step t, counted from there, every value
    a becomes d a + (1 - d) w, with the network's value w after the step, and the decay
    d = min(``decay``, (1 + t) / (10 + t)): so the weights it started from are soon forgotten.

    The main process alone keeps an average. The ranks' weights are the same, and of their running
    statistics, each of its own chunks, those of the main process count.

    Args:
        network: network that is trained in place.
        decay: highest decay, 0 to 1.

    Attributes:
        steps: number of steps that are in the average.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._network, self._decay, self.steps = network, decay, 0
        values = _averaged(network)  # in the memory that training changes
        self._values = list(values.values())
        self._averages = {key: value.clone() for key, value in values.items()}

    def update_(self) -> None:
        """Takes the network's weights, as they are after a step, into the average."""
        self.steps += 1
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps))
        get_ema_multi_avg_fn(decay)(list(self._averages.values()), self._values, self.steps)

    @torch.no_grad()
    def load_(self, averages: Mapping[str, Tensor], steps: int) -> None:
        """Makes this the average that :meth:`state_dict` gave after so many steps."""
        self.steps = steps
        for key, value in self._averages.items():
            value.copy_(averages[key])

    def state_dict(self) -> dict[str, Tensor]:
        """Averages by the network's keys; what is not averaged, as counts, is the network's own."""
        return {**self._network.state_dict(), **self._averages}


@contextlib.contextmanager
def averaged_weights_in(
    network: nn.Module, average: AveragedWeights | None, ranks: Ranks
) -> Iterator[None]:
    """Context in which the network of every rank has the averaged weights and running statistics.

    Afterwards each has its own again, bit for bit. All ranks enter it together: a step's
    collective.

    Args:
        network: this rank's network, not wrapped.
        average: the main process's average; None on other ranks.
        ranks: this process among those that train together.
    """
    values = _averaged(network)
    own = {key: value.clone() for key, value in values.items()}
    try:
        if average is not None:
            network.load_state_dict(average.state_dict())
        ranks.broadcast_(values.values())
        yield
    finally:
        with torch.no_grad():
            for key, value in values.items():
                value.copy_(own[key])


def _averaged(network: nn.Module) -> dict[str, Tensor]:
    """The network's own weights and running statistics that are averaged, by their keys."""
    return {key: value for key, value in network.state_dict().items() if value.is_floating_point()}
