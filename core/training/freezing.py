"""Parts of a pretrained backbone that do not train, all the time or in a run's first steps."""

from collections.abc import Sequence
from dataclasses import fields, replace

from torch import nn

from ..config.errors import UserError
from ..config.loading import Config
from ..config.schema import System
from ..models.detector import Detector
from ..torch_compat import BatchNorm

_SETTINGS = ("backbone_lr", "frozen_stages", "frozen_steps", "frozen_norm")


def refuse_without_backbone(config: Config, detector: Detector) -> None:
    """Refuses settings of the backbone in a run whose network has none.

    Args:
        config: settings of the run.
        detector: its detector.

    Raises:
        UserError: such a setting differs from its default.
    """
    if detector.stages():
        return
    defaults = {field.name: field.default for field in fields(System)}
    wrong = [key for key in _SETTINGS if getattr(config.system, key) != defaults[key]]
    if wrong:
        names = ", ".join(f"system.{key}" for key in wrong)
        raise UserError(
            f"{config.path}: this network has no backbone to pretrain, and no use for {names}; "
            "leave that out, or choose a model.backbone"
        )


def describe_backbone(system: System) -> str | None:
    """Describes how a run treats its backbone; None if like the rest of the network."""
    parts = []
    if system.frozen_stages:
        end = "" if system.frozen_steps is None else f" up to step {system.frozen_steps}"
        parts.append(f"the first {system.frozen_stages} of 4 stages frozen{end}")
    if system.backbone_lr != 1:
        parts.append(f"learning rate times {system.backbone_lr:g}")
    if system.frozen_norm:
        parts.append("batch norms keep their statistics")
    return "backbone: " + ", ".join(parts) if parts else None


def frozen_stages_at(iteration: int, system: System) -> int:
    """Number of the backbone's first stages that do not train in a step.

    It depends on the step's number alone, so a resumed run freezes what the run before did.

    Args:
        iteration: number of the step, from 1.
        system: settings with ``frozen_stages`` and ``frozen_steps``.
    """
    ended = system.frozen_steps is not None and iteration > system.frozen_steps
    return 0 if ended else system.frozen_stages


def thaws_at(iteration: int, system: System) -> bool:
    """True if stages train in a step that did not train in the one before."""
    return frozen_stages_at(iteration, system) != frozen_stages_at(iteration - 1, system)


def thawed(config: Config) -> Config:
    """The config of a run whose ``frozen_steps``, if it has any, are over.

    For measurements: the steps that train everything take longest, and most memory.
    """
    if config.system.frozen_steps is None:
        return config
    return replace(config, system=replace(config.system, frozen_stages=0, frozen_steps=None))


def freeze_(stages: Sequence[nn.Module], iteration: int, system: System) -> None:
    """Prepares a backbone, in training mode, for a step: freezes what does not train in it.

    The parameters of a frozen stage need no gradient. As no layer that trains comes before it, its
    activations are not kept and nothing is computed for it in the backward pass. It computes as in
    evaluation mode, so its running statistics stay as they are.

    With ``frozen_norm`` all batch norms of the backbone compute with their running statistics, for
    chunks of too few images for statistics of their own. In the stages that train, the weights and
    biases of the batch norms, which then are no more than a scale and a shift, train too.

    Args:
        stages: the stages, in order from the image; changed in place.
        iteration: number of the step, from 1.
        system: settings with ``frozen_stages``, ``frozen_steps`` and ``frozen_norm``.
    """
    if not system.frozen_stages and not system.frozen_norm:
        return
    frozen = frozen_stages_at(iteration, system)
    for number, stage in enumerate(stages):
        trains = number >= frozen
        stage.requires_grad_(trains).train(trains)
        if trains and system.frozen_norm:
            for module in stage.modules():
                if isinstance(module, BatchNorm):
                    module.eval()
