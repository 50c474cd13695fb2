"""The pictures of a data set shared out to the ranks, and what they make of them put together."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np

from ..config.errors import UserError
from ..data.coco import CocoDetection
from ..data.images import decoded_images
from ..data.loader import LOST_WORKER, lost_worker_hint
from ..distributed.ranks import Ranks

T = TypeVar("T")

_ROUND = 16  # pictures that a rank looks at before the ranks put together what they have


class ImageError(RuntimeError):
    """A picture could not be looked at: the message says which one and why."""


class _Failure(NamedTuple):
    """What went wrong with a picture of a rank, and whether that is for the user to mend."""

    picture: int
    mistake: bool
    text: str


def every_image(
    look: Callable[[int, np.ndarray], T], dataset: CocoDetection, workers: int, ranks: Ranks
) -> Iterator[T]:
    """Looks at every picture of a data set; the ranks share them.

    All ranks use this together, to its end or up to the same picture.

    Args:
        look: ``look(index, image)`` -> what the picture gives, picklable; image uint8 [h, w, 3].
        dataset: names the pictures.
        workers: processes that decode pictures ahead, for each rank.
        ranks: this process among the others.

    Yields:
        What ``look`` gave, in the order of the dataset: on every rank that of all ranks.

    Raises:
        UserError: a picture cannot be decoded, on whichever rank.
        ImageError: ``look`` failed, on whichever rank; the cause is with the rank's own. Or a
            worker was lost.
    """
    pictures = decoded_images(dataset, workers, range(ranks.rank, len(dataset), ranks.world_size))
    size = _ROUND * ranks.world_size if ranks.world_size > 1 else 1
    for start in range(0, len(dataset), size):
        indices = range(start, min(start + size, len(dataset)))
        found: list[T] = []
        failure: _Failure | None = None
        error: Exception | None = None
        try:
            for index in indices[ranks.rank :: ranks.world_size]:
                found.append(look(index, next(pictures)))
        except UserError as mistake:
            failure, error = _Failure(index, True, str(mistake)), mistake
        except Exception as own:
            if str(own).startswith(LOST_WORKER):
                failure = _Failure(index, False, f"{str(own).strip()}{lost_worker_hint(str(own))}")
            else:
                text = f"{dataset.image_path(index)}: {type(own).__name__}: {own}"
                failure, error = _Failure(index, False, text), own
        if start:  # in the first round workers start; later a lost rank is noticed as in a step
            ranks.sum([0])
        shares = ranks.gather((found, failure))
        _raise_first([failure for _, failure in shares if failure is not None], error)
        for position in range(len(indices)):
            yield shares[position % ranks.world_size][0][position // ranks.world_size]


def _raise_first(failures: list[_Failure], own: Exception | None) -> None:
    """Raises the failure with the first picture, if there is one; ``own`` is this rank's."""
    if not failures:
        return
    first = min(failures)
    if first.mistake:
        raise UserError(first.text)
    raise ImageError(first.text) from own
