"""What ends a training run before its last step."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from core.dbs.coco import CocoDetection

_SHOWN = 4  # names in a message


class Stopped(RuntimeError):
    """Training ended early: the message says why; every whole step before it was saved."""


class NonFiniteLoss(RuntimeError):
    """A loss is not a number: the message gives its terms and pictures; nothing more was saved."""


def non_finite_loss(
    iteration: int,
    terms: Mapping[str, float],
    indices: Sequence[int],
    database: CocoDetection,
    folder: Path | None,
) -> NonFiniteLoss:
    """The error of a step whose loss is not a number; writes down what the step was made of.

    Args:
        iteration: number of the step.
        terms: of its loss.
        indices: numbers of its pictures.
        database: the training split.
        folder: gets ``non_finite_<iteration>.json`` with the terms and all pictures; None: nothing
            is written.
    """
    names = [str(database.image_path(index)) for index in indices]
    words = {name: str(value) for name, value in terms.items()}  # JSON has no word for NaN
    more, all_of_them = ", …" if len(names) > _SHOWN else "", ""
    if folder is not None:
        report = folder / f"non_finite_{iteration}.json"
        content = {"iteration": iteration, "terms": words, "pictures": names}
        report.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        all_of_them = f" (all in {report})"
    return NonFiniteLoss(
        f"the loss of step {iteration} is not finite: "
        f"{', '.join(f'{name} {value}' for name, value in words.items())}; its pictures: "
        f"{', '.join(names[:_SHOWN])}{more}{all_of_them}"
    )
