"""Devices, and networks moved to them."""

import torch
from torch import nn

from ..config.errors import UserError
from ..torch_compat import cpu_has_bfloat16


def choose_device(
    name: str | torch.device | None = None, local_rank: int | None = None
) -> torch.device:
    """Finds the device with a name; without a name, a GPU if there is one.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:1``, ``mps`` …; None to choose.
        local_rank: number of this process on its machine, if several processes have a GPU each;
            ``cuda`` then means the GPU with this number.

    Raises:
        UserError: there is no such device here, or it is one GPU for several processes.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if local_rank is not None and str(name).startswith("cuda:"):
        raise UserError(
            f"--device {name} is one GPU, and several processes were started: --device cuda gives "
            "each its own, of those in CUDA_VISIBLE_DEVICES"
        )
    if name == "cuda" and local_rank is not None:
        name = f"cuda:{local_rank}"
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"this machine has {torch.cuda.device_count()} GPUs, one a process, and more "
                "processes were started: torchrun --nproc_per_node says how many"
            )
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split("\n")[0].split())
        raise UserError(f"device {name!s} cannot be used here: {reason}") from None


def make_current(device: torch.device) -> None:
    """Makes a GPU the current one, which streams and pinned memory use by default."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def move_to_device_(
    network: nn.Module, device: torch.device, channels_last: bool | None, training: bool
) -> None:
    """Moves a network to a device, with its weights in the wanted memory layout.

    Networks that PyTorch 2.15 trains wrongly on CPUs in channels_last keep the other layout there.

    Args:
        network: changed in place.
        device: the new device.
        channels_last: the layout; None: the faster one, which is channels_last except for training
            on CPUs without AVX-512, where a step in it takes up to 1.4 times as long.
        training: True: the network will be trained.
    """
    if channels_last is None:
        wide = device.type != "cpu" or "AVX512" in torch.backends.cpu.get_cpu_capability()
        channels_last = wide or not training
    safe = device.type != "cpu" or not any(map(_overruns, network.modules()))
    layout = torch.channels_last if channels_last and safe else torch.contiguous_format
    network.to(device).to(memory_format=layout)


def slow_in_bfloat16(device: torch.device) -> bool:
    """True if convolutions in bfloat16 are several times slower, for lack of instructions."""
    return device.type == "cpu" and not cpu_has_bfloat16()


def _overruns(module: nn.Module) -> bool:
    """True if the backward pass of a convolution in channels_last writes past its memory.

    Observed with PyTorch 2.15 on a CPU with AVX2: a 1 x 1 kernel, a stride of 2, and a number of
    input channels that 8 does not divide.
    """
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and module.in_channels % 8 != 0
    )
