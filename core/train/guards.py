"""What ends a training run before its last step."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ..config.loading import System
from ..data.coco import CocoDetection

_SHOWN = 4  # names in a message


class Stopped(RuntimeError):
    """Training ended early: the message says why; every whole step before it was saved."""


class NonFiniteLoss(RuntimeError):
    """A loss or a gradient is not finite: the message gives terms and pictures; nothing was saved.

    One is as bad as the other: the weights after a step with such a gradient are no numbers.
    """


def out_of_memory(error: torch.OutOfMemoryError, system: System) -> str:
    """What to tell of a GPU whose memory a run filled: the mends that the config has left."""
    largest = max(system.chunk_sizes or (system.batch_size,))
    hints = {
        "smaller system.chunk_sizes": largest > 1,
        "system.precision=bfloat16": system.precision != "bfloat16",
        "system.checkpointing=stack or residual": system.checkpointing == "none",
    }
    left = [hint for hint, helps in hints.items() if helps] or ["a smaller db.input_size"]
    told = str(error).partition(". ")[0]
    return (
        f"the GPU's memory is full ({told}); what takes less: {', '.join(left)}; python -m "
        "core.tools.plan CONFIG says what fits"
    )


def non_finite_loss(
    iteration: int,
    terms: Mapping[str, float],
    gradient_norm: float,
    indices: Sequence[int],
    dataset: CocoDetection,
    folder: Path | None,
) -> NonFiniteLoss:
    """The error of a step whose loss or gradient is not finite; writes down what it was made of.

    Args:
        iteration: number of the step.
        terms: of its loss.
        gradient_norm: of all its gradients together.
        indices: numbers of its pictures.
        dataset: the training split.
        folder: gets ``non_finite_<iteration>.json`` with the terms and all pictures, unless the
            disk is full; None: nothing is written.
    """
    names = [str(dataset.image_path(index)) for index in indices]
    words = {name: str(value) for name, value in terms.items()}  # JSON has no word for NaN
    more, all_of_them = ", …" if len(names) > _SHOWN else "", ""
    content = {"iteration": iteration, "terms": words, "gradient_norm": str(gradient_norm)}
    if folder is not None:
        report = folder / f"non_finite_{iteration}.json"
        text = json.dumps({**content, "pictures": names}, indent=2) + "\n"
        with contextlib.suppress(OSError):
            report.write_text(text, encoding="utf-8")
            all_of_them = f" (all in {report})"
    told = ", ".join(f"{name} {value}" for name, value in words.items())
    return NonFiniteLoss(
        f"step {iteration} is not finite: {told}, gradient norm {gradient_norm}; its pictures: "
        f"{', '.join(names[:_SHOWN])}{more}{all_of_them}"
    )
