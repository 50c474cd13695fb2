"""Images that cannot be decoded: a warning for each, and the end of the run if there are many."""

import logging

from ..config.errors import UserError
from ..structures import Batch
from .coco import CocoDetection
from .images import Unreadable, read_image

logger = logging.getLogger(__name__)

TOLERATED = 0.01  # fraction of a dataset's images


def max_unreadable(num_images: int) -> int:
    """Returns how many images of a dataset of ``num_images`` may be unreadable."""
    return int(num_images * TOLERATED)


class UnreadableImages:
    """Collects the unreadable images that batches of one dataset report.

    Args:
        dataset: the dataset that the batches are made from.
        warn: log a warning for each image; of several ranks, one does.

    Attributes:
        numbers: numbers in ``dataset`` of the unreadable images so far.
    """

    def __init__(self, dataset: CocoDetection, warn: bool = True) -> None:
        self.dataset, self.warn = dataset, warn
        self.numbers: set[int] = set()

    def note(self, batch: Batch) -> None:
        """Warns of every image that could not be decoded, once for each image.

        Raises:
            UserError: more than 1 % of the dataset's images are unreadable.
        """
        for number in batch.unreadable.tolist():
            if number in self.numbers:
                continue
            self.numbers.add(number)
            if not self.warn:
                continue
            path = self.dataset.image_path(number)
            image = read_image(path)  # once more, for the reason
            reason = image.reason if isinstance(image, Unreadable) else "could not be read"
            logger.warning("%s %s; the next image takes its place", path, reason)
        if len(self.numbers) > max_unreadable(len(self.dataset)):
            raise UserError(
                f"{len(self.numbers)} of the {len(self.dataset)} images of "
                f"{self.dataset.annotation_file} cannot be read, more than {TOLERATED:.0%}; the "
                f"first is {self.dataset.image_path(min(self.numbers))}; "
                "cornerkit check CONFIG lists them all"
            )
