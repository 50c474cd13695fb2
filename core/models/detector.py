"""A detector: a network, and the plain functions that train it and detect with it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..data.samples import SampleFunction
from ..inference.batches import Infer
from ..inference.predict import Predict
from ..structures import Batch


def no_inputs(targets: Any) -> tuple[Any, ...]:
    """Inputs besides the images of a network that needs none for its losses."""
    return ()


def no_stages() -> Sequence[nn.Module]:
    """Stages of the backbone of a network that has none."""
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
        losses: ``losses(outputs, targets)`` -> weighted terms by name; their sum is minimised. It
            also takes ``focal``, the function for the loss of a heatmap, by default
            :func:`core.losses.focal.focal_loss`.
        decode: ``decode(outputs)`` -> float32 [B, n, columns], detections in output cells; or
            another result that ``infer`` works with.
        infer: ``infer(image, trace=None)``, an :class:`Infer`: asks for what the network finds in
            an image and returns its Detections. :class:`core.inference.batches.BatchedInference`
            runs it.
        class_head_keys: prefixes of the state-dict keys whose shape depends on the number of
            classes.
        pairing_head_keys: prefixes of the state-dict keys of heads that pair corners. Weights of a
            network that pairs in another way lack some of them, and have others.
        network_inputs: ``network_inputs(targets)`` -> inputs of the network besides the images, for
            its losses, in either mode: the cells that they read, or for Faster R-CNN the targets,
            by which it samples regions.
        decode_inputs: inputs of the network besides the images, for ``decode``, by name.
        load_pretrained_: ``load_pretrained_()`` loads pretrained weights into parts of the network;
            called if a run starts from no other weights. None: there are none.
        stages: ``stages()`` -> parts of the backbone, in order from the image, with all of its
            parameters; settings of fine-tuning freeze the first of them, or make all of them learn
            more slowly. Empty: the network has no backbone that could be pretrained.
        static_step: True: the network draws no random numbers in training, and all shapes in a step
            follow from those of the batch, so that a GPU computes it without waiting for the host.
        compilable: the part of the network whose blocks can be compiled; None: all.
    """

    network: nn.Module
    sample: SampleFunction
    targets: Callable[[Batch], Any]
    losses: Callable[..., dict[str, Tensor]]
    decode: Callable[[Any], Any]
    infer: Infer
    class_head_keys: tuple[str, ...]
    pairing_head_keys: tuple[str, ...] = ()
    network_inputs: Callable[[Any], tuple[Any, ...]] = no_inputs
    decode_inputs: Mapping[str, Any] = field(default_factory=dict)
    load_pretrained_: Callable[[], None] | None = None
    stages: Callable[[], Sequence[nn.Module]] = no_stages
    static_step: bool = True
    compilable: nn.Module | None = None

    def predict(self, device: torch.device, half: bool = False) -> Predict:
        """Makes the function that runs the network and decodes; arguments of :class:`Predict`."""
        return Predict(self.network, self.decode, device, half, self.decode_inputs)
