"""What `detect` does with every image: detection, choice, drawing, crops, and the results file."""

from collections import Counter
from collections.abc import Collection, Generator, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..config.errors import UserError
from ..config.suggestions import nearest
from ..data.file_names import output_name
from ..evaluation.draw import draw_detections
from ..inference.tiles import ImageDetector
from ..structures import Detections
from .detected_coco import DetectedCoco
from .outputs import Outputs, write_image
from .sources import IMAGES, Source


@dataclass(frozen=True)
class Job:
    """One call of `detect`.

    Attributes:
        detector: detector with its weights.
        outputs: where the drawings go, and the crops.
        threshold: lowest score of a detection.
        labels: classes of the detections, numbers; None: all.
        batch: images that go through the network together; 0: as many as are fast.
        coco: collects the detections for the results file; None: there is none.
    """

    detector: ImageDetector
    outputs: Outputs
    threshold: float
    labels: Collection[int] | None = None
    batch: int = 0
    coco: DetectedCoco | None = None

    def stream(
        self, images: Iterable[np.ndarray], batch: int | None = None
    ) -> Generator[tuple[np.ndarray, Detections | str], None, None]:
        """Finds the objects of images, and goes on after one that is too large for the memory.

        Args:
            images: uint8 [h, w, 3], BGR.
            batch: as for the detector; None: that of the job.

        Yields:
            Each image, with its detections or with what is wrong, to go after its name.
        """
        for each in self.detector.found(images, self.batch if batch is None else batch):
            assert each.image is not None
            if each.problem is None:
                yield each.image, self._chosen(each.detections)
            else:
                yield each.image, f"{each.problem}, and so do tiles, as with --tile 1024"

    def record(
        self, source: Source, image: np.ndarray, found: Detections, frame: int | None = None
    ) -> np.ndarray:
        """Keeps the detections of an image for the results file, cuts them out, and draws them.

        Args:
            source: the image, or the video that it is a frame of.
            image: uint8 [h, w, 3], BGR.
            found: its detections.
            frame: number of the frame, from 0 on.

        Returns:
            The drawing, uint8, as large or, of a small image, larger.
        """
        names = self.detector.class_names
        if self.coco is not None:
            self.coco.add(str(source), (image.shape[0], image.shape[1]), found, frame)
        if self.outputs.crops is not None:
            self._cut_out(source, image, found, frame)
        return draw_detections(image, found.boxes, found.labels, found.scores, names)

    def counted(self, found: Detections) -> str:
        """Says how many objects of which classes were found."""
        names = self.detector.class_names
        counts = Counter(names[label] for label in found.labels.tolist())
        return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"

    def _chosen(self, found: Detections) -> Detections:
        chosen = found.scores >= self.threshold
        if self.labels is not None:
            chosen &= np.isin(found.labels, list(self.labels))
        return found[chosen]

    def _cut_out(
        self, source: Source, image: np.ndarray, found: Detections, frame: int | None
    ) -> None:
        """Writes each object as an image, numbered from the best on, into a folder of its class."""
        assert self.outputs.crops is not None
        drawing = self.outputs.drawings[source]
        suffix = drawing.suffix if drawing.suffix in IMAGES else ".jpg"
        stem = drawing.stem if frame is None else f"{drawing.stem}_frame{frame:06d}"
        height, width = image.shape[:2]
        for number, (box, label) in enumerate(zip(found.boxes, found.labels, strict=True), 1):
            x0, y0 = np.floor(box[:2]).astype(int).clip(0)
            x1, y1 = np.ceil(box[2:]).astype(int).clip(0, (width, height))
            if x0 < x1 and y0 < y1:
                folder = self.outputs.crops / output_name(self.detector.class_names[label])
                write_image(folder / f"{stem}_{number}{suffix}", image[y0:y1, x0:x1])


def choose_labels(names: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """Finds the numbers of classes that a user named.

    Args:
        names: names of the detector's classes.
        wanted: names, or several with commas between them; empty: all classes.

    Returns:
        The numbers; None if no class was named.

    Raises:
        UserError: the detector has no such class.
    """
    parts: list[str] = []
    for given in wanted:
        parts += [given] if given in names else [part.strip() for part in given.split(",")]
    for part in parts:
        if part not in names:
            raise UserError(
                f"--classes: the detector knows no class {part!r}{nearest(part, names)}"
            )
    return [names.index(part) for part in parts] or None
