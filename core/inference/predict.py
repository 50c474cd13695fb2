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
        network: in evaluation mode, on ``device``.
        decode: turns the network's outputs into what inference works with.
        device: where it runs. Images may come from any device; those made there need no copy.
        half: whether the network runs in bfloat16 where that is as good.
        inputs: arguments of the network besides the images, by name.
    """

    network: nn.Module
    decode: Callable[[Any], Any]
    device: torch.device
    half: bool = False
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, images: Tensor, **options: Any) -> Any:
        """Runs the network and decodes its outputs.

        Args:
            images: normalised, float32 [B, 3, height, width].
            options: further arguments of the network's ``forward``.
        """
        images = images.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            outputs = self.network(images, **self.inputs, **options)
        return self.decode(outputs)
