"""Detectors as in the reference implementation, for code that was written for it.

from core.detectors import CornerNet_Saccade
detector = CornerNet_Saccade()
detector(image)["person"]  # float32 [n, 5]: x0, y0, x1, y1, score

:func:`core.models.loading.load_detector` loads any other detector, and any other weights.
"""

from pathlib import Path

import numpy as np

from .checkpoint.run_directory import RunDirectory
from .config.files import CONFIG_DIR
from .config.loading import load_config
from .models.loading import load_detector

_PUBLISHED = 500_000  # iteration of the weights that the reference loads


class _Published:
    """A detector of a published config; its class has the name of the config.

    The weights are those of iteration 500000, in the config's cache or in that of the clone, or
    else those of the newest snapshot.

    Raises:
        UserError: there are no weights.
    """

    def __init__(self) -> None:
        name = type(self).__name__
        caches = load_config(name).system.cache_dir, CONFIG_DIR.parent / "cache"
        files = [RunDirectory(cache, name).snapshot(_PUBLISHED) for cache in caches]
        self.detector = load_detector(name, next(filter(Path.is_file, files), None))

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Finds the objects of an image.

        Args:
            image: uint8 [h, w, 3], BGR, or another that :class:`~.models.loading.LoadedDetector`
                takes.

        Returns:
            For every class float32 [n, 5]: x0, y0, x1, y1 in pixels and the score, best first.
        """
        return self.detector(image).by_class()


class CornerNet(_Published):
    """CornerNet (arXiv:1808.01244)."""


class CornerNet_Squeeze(_Published):
    """CornerNet-Squeeze (arXiv:1904.08900)."""


class CornerNet_Saccade(_Published):
    """CornerNet-Saccade (arXiv:1904.08900)."""
