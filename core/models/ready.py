"""A detector that is ready to use: what finds the objects of images, whatever runs its network."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
from PIL.Image import Image
from torch import Tensor

from ..config.errors import UserError
from ..data.as_image import AnyImage, as_image
from ..inference.batches import BatchedInference, Found, Infer
from ..inference.predict import Predict
from ..inference.saccade import SaccadeRound
from ..structures import Detections


class ReadyDetector:
    """A detector with trained weights.

    Args:
        infer: what finds the objects of one image.
        predict: the network with its weights.
        class_names: C names.
    """

    def __init__(self, infer: Infer, predict: Predict, class_names: Sequence[str]) -> None:
        self._infer, self._predict = infer, predict
        self.class_names = tuple(class_names)

    @overload
    def __call__(
        self, image: str | Path | Image, threshold: float = 0.0, *, rgb: bool = False
    ) -> Detections: ...
    @overload
    def __call__(
        self, image: list[Any] | tuple[Any, ...], threshold: float = 0.0, *, rgb: bool = False
    ) -> list[Detections]: ...
    @overload
    def __call__(
        self, image: np.ndarray | Tensor, threshold: float = 0.0, *, rgb: bool = False
    ) -> Any: ...
    def __call__(
        self,
        image: AnyImage | Sequence[AnyImage],
        threshold: float = 0.0,
        *,
        rgb: bool = False,
    ) -> Detections | list[Detections]:
        """Finds the objects of an image, or of several.

        Args:
            image: an image, as for :func:`core.data.as_image.as_image`: a path, an image of PIL, an
                array in BGR, a tensor in RGB; or a list, a tuple, or an array or tensor of four
                dimensions, of several.
            threshold: lowest score, 0 to 1, of a detection that is returned.
            rgb: arrays are RGB.

        Returns:
            The detections, for several images a list of them; ``found["person"]`` is float32
            [n, 5]: x0, y0, x1, y1 in pixels and the score, best first.

        Raises:
            UserError: not an image, or the threshold is not from 0 to 1.
        """
        if isinstance(image, list | tuple) or getattr(image, "ndim", 0) == 4:
            found = self.stream(_each(cast(Sequence[AnyImage], image), rgb))
            return [one.filter(threshold) for one in found]
        single = cast(AnyImage, image)
        return self.detections(as_image(single, rgb)).filter(threshold)

    def detections(
        self, image: np.ndarray | str | Path, trace: list[SaccadeRound] | None = None
    ) -> Detections:
        """Finds the objects of an image, and records how.

        Args:
            image: the path of an image, or an array in BGR, with the errors of :meth:`__call__`.
            trace: list to which CornerNet-Saccade appends its rounds, for
                :func:`core.evaluation.draw.draw_saccades`; other detectors append nothing.
        """
        inference = BatchedInference(self._infer, self._predict, 1, threaded=False)
        (found,) = inference([as_image(image)])
        if trace is not None:
            trace.extend(found.trace)
        return self._named(found)

    def stream(self, images: Iterable[np.ndarray], batch: int = 0) -> Iterator[Detections]:
        """Finds the objects of many images, in batches; arguments of :meth:`found`.

        Yields:
            The detections of each image, in their order.

        Raises:
            UserError: an image is too large for the memory.
        """
        yield from map(self._named, self.found(images, batch))

    def found(self, images: Iterable[np.ndarray], batch: int = 0) -> Iterator[Found]:
        """Finds the objects of many images, in batches; reads ahead of what it yields.

        Args:
            images: uint8 [h, w, 3], BGR.
            batch: images that go through the network together; 0: as many as fit the memory of a
                GPU, and one on a CPU.

        Yields:
            The result of each image, in their order; that of one that is too large for the memory
            says so.
        """
        return BatchedInference(self._infer, self._predict, batch)(images)

    def _named(self, found: Found) -> Detections:
        """Adds the names of the classes; a UserError for an image that was skipped."""
        if found.problem is not None:
            raise UserError(f"the image {found.problem}")
        return replace(found.detections, names=self.class_names)


def _each(images: Sequence[AnyImage], rgb: bool) -> Iterator[np.ndarray]:
    """Converts images one by one; an error says which it is of."""
    for number, image in enumerate(images):
        try:
            yield as_image(image, rgb)
        except UserError as error:
            raise UserError(f"images[{number}]: {error}") from None
