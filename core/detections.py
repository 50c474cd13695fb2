"""What was found in an image, and the forms in which other programs take it."""

import importlib
from collections.abc import ItemsView, Iterator, KeysView, Sequence, ValuesView
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from .config.errors import UserError

if TYPE_CHECKING:
    from .data.as_image import AnyImage


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """Objects found in one image, highest score first; ``found["person"]`` are those of a class.

    It is read like a dict of the classes, with ``keys``, ``items``, ``in`` and a loop over the
    names, but its length is the number of objects. Where it has no names, the classes are called
    ``class 0`` and so on.

    Attributes:
        boxes: float32 [n, 4], pixels of the image.
        scores: float32 [n].
        labels: int64 [n].
        names: names of the C classes, by label; ``()`` where they are not known.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        labels, counts = np.unique(self.labels, return_counts=True)
        names, many = self._class_names(), counts.argsort(kind="stable")[::-1]
        classes = ", ".join(f"{counts[row]} {names[labels[row]]}" for row in many)
        if not len(self):
            return "Detections(nothing)"
        return f"Detections({classes}; scores {self.scores.min():.2f} to {self.scores.max():.2f})"

    def __iter__(self) -> Iterator[str]:
        return iter(self._class_names())

    @overload
    def __getitem__(self, key: str) -> np.ndarray: ...
    @overload
    def __getitem__(self, key: int | slice | np.ndarray) -> "Detections": ...
    def __getitem__(self, key: str | int | slice | np.ndarray) -> "np.ndarray | Detections":
        """The boxes of a class, or some of the detections.

        Args:
            key: name of a class; or a row, a slice, numbers of rows or a mask bool [n].

        Returns:
            Of a name float32 [m, 5]: x0, y0, x1, y1 and the score, best first; of rows, those.

        Raises:
            KeyError: there is no such class.
        """
        if isinstance(key, str):
            return self.by_class()[key]
        rows = np.atleast_1d(np.arange(len(self))[key])
        return replace(
            self, boxes=self.boxes[rows], scores=self.scores[rows], labels=self.labels[rows]
        )

    def keys(self) -> KeysView[str]:
        """Names of all classes, in the order of the labels."""
        return self.by_class().keys()

    def values(self) -> ValuesView[np.ndarray]:
        """Boxes of each class, in the order of the labels."""
        return self.by_class().values()

    def items(self) -> ItemsView[str, np.ndarray]:
        """Name and boxes of each class, in the order of the labels."""
        return self.by_class().items()

    def by_class(self) -> dict[str, np.ndarray]:
        """Boxes and scores by the name of their class.

        Returns:
            For every class float32 [m, 5]: x0, y0, x1, y1 in pixels and the score, best first.
        """
        rows = np.concatenate([self.boxes, self.scores[:, None]], axis=1)
        return {name: rows[self.labels == n] for n, name in enumerate(self._class_names())}

    def filter(self, threshold: float = 0.0, classes: str | Sequence[str] = ()) -> "Detections":
        """Keeps the objects that have at least a score, and that are of some classes.

        Args:
            threshold: lowest score that is kept, 0 to 1.
            classes: names of the classes to keep; none: all.

        Raises:
            UserError: the threshold is not from 0 to 1, or there is no such class.
        """
        if not 0 <= threshold <= 1:
            raise UserError(f"the threshold {threshold} must be from 0 to 1")
        kept = self.scores >= threshold
        if classes:
            chosen, names = [classes] if isinstance(classes, str) else classes, self._class_names()
            if unknown := sorted(set(chosen) - set(names)):
                raise UserError(f"there is no class {unknown[0]!r}; there are {', '.join(names)}")
            kept &= np.isin(self.labels, [names.index(name) for name in chosen])
        return self[kept]

    def draw(self, image: "AnyImage", rgb: bool = False) -> np.ndarray:
        """Draws boxes, names and scores on a copy of the image.

        Args:
            image: the image, as a detector takes it.
            rgb: the drawing is RGB instead of BGR, as is ``image`` if it is an array.

        Returns:
            uint8 [k h, k w, 3]; the zoom k is 1, or more for an image too small to write on.

        Raises:
            UserError: not an image.
        """
        from .data.as_image import as_image
        from .evaluation.draw import draw_detections

        names = self._class_names()
        drawn = draw_detections(as_image(image, rgb), self.boxes, self.labels, self.scores, names)
        return drawn[:, :, ::-1].copy() if rgb else drawn

    def to_coco(
        self, image_id: int, category_ids: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """Converts the detections to entries of COCO's list of results.

        Args:
            image_id: id of the image in its annotation file.
            category_ids: the file's id of each class, by label; None: they are the labels plus 1.

        Returns:
            For each object its image, category, box (x, y, width, height in pixels) and score.

        Raises:
            UserError: there are not as many ids as classes.
        """
        from .evaluation.coco import image_results

        names = self._class_names()
        if category_ids is None:
            category_ids = range(1, len(names) + 1)
        elif len(category_ids) != len(names):
            raise UserError(f"{len(category_ids)} category_ids for {len(names)} classes")
        return image_results(self, image_id, np.asarray(category_ids, np.int64))

    def to_supervision(self) -> Any:
        """Converts the detections to ``supervision.Detections``, with ``class_name`` in its data.

        Raises:
            UserError: the package supervision is not installed.
        """
        try:
            supervision = importlib.import_module("supervision")
        except ModuleNotFoundError:
            raise UserError(
                "to_supervision needs the package supervision: pip install supervision"
            ) from None
        names = np.array(self._class_names(), dtype=str)
        return supervision.Detections(
            xyxy=self.boxes,
            confidence=self.scores,
            class_id=self.labels.astype(int),
            data={"class_name": names[self.labels]},
        )

    def _class_names(self) -> tuple[str, ...]:
        """The names, or names made of the labels where there are none."""
        if self.names or not len(self):
            return self.names
        return tuple(f"class {label}" for label in range(int(self.labels.max()) + 1))
