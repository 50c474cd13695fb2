"""Where networks run."""

import torch
from torch import nn

from core.errors import UserError


def choose_device(name: str | torch.device | None = None) -> torch.device:
    """The device of a name, or a GPU if there is one.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:1``, ``mps`` …; None to choose.

    Raises:
        UserError: there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split("\n")[0].split())
        raise UserError(f"device {name!s} cannot be used here: {reason}") from None


def place_(network: nn.Module, device: torch.device, channels_last: bool) -> None:
    """Moves a network to a device, its weights in the memory layout that was asked for."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network.to(device).to(memory_format=layout)
