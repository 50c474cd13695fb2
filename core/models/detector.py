"""What every detector is made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..inference.predict import Predict
from ..structures import Batch, Detections, Sample

Drawings = dict[str, np.ndarray]


def no_inputs(targets: Any) -> tuple[Any, ...]:
    """What networks take from the targets that read images alone: nothing."""
    return ()


@dataclass(frozen=True)
class Detector:
    """A detector as a network and the plain functions around it.

    Attributes:
        network: ``network(images)``, images float [B, 3, height, width] normalised. It gives a
            list with one entry a stack: every stack in training mode, the last one only in
            evaluation mode. Its state-dict keys are the reference's.
        sample: ``sample(image, boxes, labels, rng)`` -> Sample, in a worker: image uint8
            [height, width, 3]; ``rng`` a numpy Generator, or None for no augmentation (validation).
        targets: ``targets(batch)`` -> what the losses compare with, on the batch's device.
        losses: ``losses(outputs, targets)`` -> weighted terms by name; their sum is minimised.
        decode: ``decode(outputs)`` -> float32 [B, n, columns], detections in output cells; or what
            else ``infer`` needs.
        infer: ``infer(image, predict)`` -> Detections: image uint8 [height, width, 3];
            ``predict(images)`` -> what is decoded of normalised float images [B, 3, h, w].
        class_head_keys: prefixes of the state-dict keys whose shape depends on the class count.
        network_inputs: ``network_inputs(targets)`` -> what the network takes beside the images
            for its losses, in either mode: the cells that they read, or for Faster R-CNN the
            targets, by which it samples regions.
        decode_inputs: what the network takes beside the images for ``decode``, by name.
        load_pretrained_: ``load_pretrained_()`` loads what parts of the network learnt elsewhere;
            called where a run starts from no other weights. None: there is nothing to load.
        inspect: as ``infer``, and gives also drawings by name, uint8 [h, w, 3], of how the
            detections came about; None for a detector that has nothing to show.
        compilable: the part of the network that can be compiled without graph breaks; None: all.
    """

    network: nn.Module
    sample: Callable[[np.ndarray, np.ndarray, np.ndarray, np.random.Generator | None], Sample]
    targets: Callable[[Batch], Any]
    losses: Callable[[Any, Any], dict[str, Tensor]]
    decode: Callable[[Any], Any]
    infer: Callable[[np.ndarray, Predict], Detections]
    class_head_keys: tuple[str, ...]
    inspect: Callable[[np.ndarray, Predict], tuple[Detections, Drawings]] | None = None
    network_inputs: Callable[[Any], tuple[Any, ...]] = no_inputs
    decode_inputs: Mapping[str, Any] = field(default_factory=dict)
    load_pretrained_: Callable[[], None] | None = None
    compilable: nn.Module | None = None

    def predict(self, device: torch.device, half: bool = False) -> Predict:
        """What ``infer`` looks at images with; arguments as :class:`Predict`."""
        return Predict(self.network, self.decode, device, half, self.decode_inputs)
