"""Errors that end a training run before its last step, and their messages."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ..config.schema import System
from ..data.coco import CocoDetection

_SHOWN = 4  # names in a message


class NonFiniteLoss(RuntimeError):
    """A loss or a gradient is not finite: the message gives terms and images.

    The step is not saved: after it the weights are not numbers.
    """


def out_of_memory(error: torch.OutOfMemoryError, system: System) -> str:
    """Message about a GPU whose memory is full, with the settings that can still help."""
    largest = max(system.chunk_sizes or (system.batch_size,))
    hints = {
        "smaller system.chunk_sizes": largest > 1,
        "system.precision=bfloat16": system.precision != "bfloat16",
        "system.checkpointing=stack or residual": system.checkpointing == "none",
    }
    left = [hint for hint, helps in hints.items() if helps] or ["a smaller db.input_size"]
    reason = str(error).partition(". ")[0]
    return (
        f"the GPU's memory is full ({reason}); what takes less: {', '.join(left)}; "
        "`cornerkit plan CONFIG` says what fits"
    )


def non_finite_loss(
    iteration: int,
    terms: Mapping[str, float],
    gradient_norm: float,
    images: Sequence[int],
    dataset: CocoDetection,
    folder: Path | None,
) -> NonFiniteLoss:
    """Makes the error of a step whose loss or gradient is not finite, and writes a report of it.

    Args:
        iteration: number of the step.
        terms: terms of the step's loss.
        gradient_norm: L2 norm of all gradients of the step together.
        images: numbers of the step's images in the dataset.
        dataset: the training split.
        folder: folder for ``non_finite_<iteration>.json`` with the terms and all images, which is
            not written if the disk is full; None: it is not written.
    """
    names = [str(dataset.image_path(index)) for index in images]
    values = {name: str(value) for name, value in terms.items()}  # JSON has no NaN
    more, all_of_them = ", …" if len(names) > _SHOWN else "", ""
    content = {"iteration": iteration, "terms": values, "gradient_norm": str(gradient_norm)}
    if folder is not None:
        report = folder / f"non_finite_{iteration}.json"
        text = json.dumps({**content, "images": names}, indent=2) + "\n"
        with contextlib.suppress(OSError):
            report.write_text(text, encoding="utf-8")
            all_of_them = f" (all in {report})"
    shown = ", ".join(f"{name} {value}" for name, value in values.items())
    return NonFiniteLoss(
        f"step {iteration} is not finite: {shown}, gradient norm {gradient_norm}; its images: "
        f"{', '.join(names[:_SHOWN])}{more}{all_of_them}"
    )
