"""Pictures that cannot be decoded: named once, counted, and the end of a run if there are many."""

import logging

from ..config.errors import UserError
from ..structures import Batch
from .coco import CocoDetection

logger = logging.getLogger(__name__)

TOLERATED = 0.01  # share of a dataset's pictures


def most_tolerated(pictures: int) -> int:
    """How many of so many pictures may be unreadable before a run is stopped."""
    return int(pictures * TOLERATED)


class UnreadableImages:
    """Watches the batches of one dataset, where they arrive.

    Args:
        dataset: whose pictures the batches show.
        tell: warn of them; of several ranks, one does.

    Attributes:
        numbers: of the unreadable pictures met so far, in ``dataset``.
    """

    def __init__(self, dataset: CocoDetection, tell: bool = True) -> None:
        self.dataset, self.tell = dataset, tell
        self.numbers: set[int] = set()

    def note(self, batch: Batch) -> None:
        """Warns of every picture that could not be decoded, the first time it is met.

        Raises:
            UserError: more than 1 % of the dataset's pictures are unreadable.
        """
        for number in batch.unreadable.tolist():
            if number in self.numbers:
                continue
            self.numbers.add(number)
            if not self.tell:
                continue
            path = self.dataset.image_path(number)
            problem = "cannot be decoded" if path.is_file() else "does not exist"
            logger.warning("%s %s; the next picture takes its place", path, problem)
        if len(self.numbers) > most_tolerated(len(self.dataset)):
            raise UserError(
                f"{len(self.numbers)} of the {len(self.dataset)} pictures of "
                f"{self.dataset.annotation_file} cannot be read, more than {TOLERATED:.0%}; the "
                f"first is {self.dataset.image_path(min(self.numbers))}; "
                "python -m core.data.check CONFIG lists them all"
            )
