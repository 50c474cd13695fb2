"""A network with its weights as inference calls it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Predict:
    """A network with its weights, and the decoding of its outputs.

    Attributes:
        network: a network in evaluation mode, on ``device``.
        decode: decodes the network's outputs for inference.
        device: device of the network; images on another one are copied to it.
        half: True: the network runs in bfloat16, as far as :class:`torch.autocast` chooses it.
        inputs: arguments of the network besides the images, by name.
    """

    network: nn.Module
    decode: Callable[[Any], Any]
    device: torch.device
    half: bool = False
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def run(self, images: Tensor, **options: Any) -> Any:
        """Runs the network.

        Args:
            images: normalised, float32 [B, 3, height, width].
            options: further arguments of the network's ``forward``.
        """
        images = images.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            return self.network(images, **self.inputs, **options)
