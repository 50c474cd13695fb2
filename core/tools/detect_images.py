"""Drawings of what a detector finds in image files."""

import logging
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np

from ..config.errors import UserError
from ..data.images import load_image
from .detect_job import Job
from .outputs import write_image
from .sources import Source

logger = logging.getLogger(__name__)


def draw_images(job: Job, sources: Sequence[Source]) -> list[Source]:
    """Draws what a detector finds in each image, and logs a line about it.

    Args:
        job: detector and outputs.
        sources: image files; they go through the detector together.

    Returns:
        Those that were skipped, with a warning, as they cannot be read, are too large for the
        memory, or their drawing cannot be written.
    """
    skipped: list[Source] = []
    read: deque[Source] = deque()

    def skip(source: Source, problem: UserError) -> None:
        logger.warning("skipped: %s", problem)
        skipped.append(source)

    def images() -> Iterator[np.ndarray]:
        for source in sources:
            try:
                image = load_image(source.path)
            except UserError as error:
                skip(source, error)
            else:
                read.append(source)
                yield image

    for image, found in job.stream(images()):
        source = read.popleft()
        try:
            if isinstance(found, str):
                raise UserError(f"{source} {found}")
            target = job.outputs.drawings[source]
            write_image(target, job.record(source, image, found))
            logger.info("%s: %s -> %s", source, job.counted(found), target)
        except UserError as error:
            skip(source, error)
    return skipped
