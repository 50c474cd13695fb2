"""What ends a training run before its last step."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from core.dbs.coco import CocoDetection

_SHOWN = 4  # names in a message


class Stopped(RuntimeError):
    """Training ended early: the message says why; every whole step before it was saved."""


class NonFiniteLoss(RuntimeError):
    """A loss is not a number: the message gives its terms and pictures; nothing more was saved."""


def check_finite(
    iteration: int,
    terms: Mapping[str, float],
    indices: Sequence[int],
    database: CocoDetection,
    folder: Path,
) -> None:
    """Refuses a step whose loss is not a number, and writes down what it was made of.

    Args:
        iteration: number of the step.
        terms: of its loss.
        indices: numbers of its pictures.
        database: the training split.
        folder: gets ``non_finite_<iteration>.json`` with the terms and all pictures.

    Raises:
        NonFiniteLoss: a term is infinite or not a number.
    """
    if all(map(math.isfinite, terms.values())):
        return
    names = [str(database.image_path(index)) for index in indices]
    words = {name: str(value) for name, value in terms.items()}  # JSON has no word for NaN
    report = folder / f"non_finite_{iteration}.json"
    content = {"iteration": iteration, "terms": words, "pictures": names}
    report.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    more = ", …" if len(names) > _SHOWN else ""
    raise NonFiniteLoss(
        f"the loss of step {iteration} is not finite: "
        f"{', '.join(f'{name} {value}' for name, value in words.items())}; its pictures: "
        f"{', '.join(names[:_SHOWN])}{more} (all in {report})"
    )
