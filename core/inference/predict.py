"""What inference asks of a network, whatever it looks at pictures for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Predict:
    """A network with its weights, ready to look at images.

    Attributes:
        network: in evaluation mode, on ``device``.
        decode: makes of its outputs what inference works with.
        device: where it runs. Images may come from any device; those made there need no copy.
        half: whether the network runs in bfloat16 where that is as good.
        inputs: what the network takes beside the images, by name.
    """

    network: nn.Module
    decode: Callable[[Any], Any]
    device: torch.device
    half: bool = False
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, images: Tensor, **options: Any) -> Any:
        """What ``decode`` makes of the network's outputs.

        Args:
            images: normalised, float32 [B, 3, height, width].
            options: further arguments of the network's ``forward``.
        """
        images = images.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            outputs = self.network(images, **self.inputs, **options)
        return self.decode(outputs)
