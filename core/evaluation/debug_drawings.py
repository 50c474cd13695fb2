"""Drawings of `evaluate --debug`: what is right, wrong and missed, beside the ground truth."""

from collections.abc import Sequence

import numpy as np

from ..data.coco import CocoDetection, to_xywh
from ..data.file_names import output_name
from ..inference.saccade import SaccadeRound
from ..structures import Detections
from .draw import Mark, draw_detections, draw_marks, draw_saccades, jpeg, side_by_side
from .matching import IN_CROWD, WRONG, match_image, overlaps_of

SHOWN_SCORE = 0.3  # the least score of a detection that is drawn
IOU = 0.5  # from which a detection finds an object

# Blue, green, red.
RIGHT_COLOR, WRONG_COLOR, MISSED_COLOR = (64, 150, 0), (36, 36, 224), (224, 96, 0)
CROWD_COLOR = (128, 128, 128)  # of detections in a crowd, which do not count


def debug_drawings(
    image: np.ndarray,
    found: Detections,
    trace: Sequence[SaccadeRound],
    dataset: CocoDetection,
    index: int,
) -> dict[str, bytes]:
    """Draws an image with its detections beside its ground truth, and the rounds of saccades.

    Args:
        image: uint8 [h, w, 3], BGR.
        found: what was detected in it.
        trace: the rounds of CornerNet-Saccade; empty for other detectors.
        dataset: the dataset; without annotations, detections have the colours of their classes.
        index: number of the image in it.

    Returns:
        JPEG files by name.
    """
    shown = found.scores > SHOWN_SCORE
    found = found[shown]
    names = dataset.class_names
    if dataset.has_annotations:
        marks, summary = judged_marks(found, dataset, index)
        boxes, labels = dataset.boxes(index), dataset.labels(index)
        panels = {
            summary: draw_marks(image, marks),
            "ground truth": draw_detections(image, boxes, labels, None, names),
        }
    else:
        drawn = draw_detections(image, found.boxes, found.labels, found.scores, names)
        panels = {"detections": drawn}
    stem = f"{index:05d}_{dataset.image_path(index).stem}"
    drawings = {stem: side_by_side(panels)}
    if trace:
        drawings[f"{stem}_saccades"] = draw_saccades(image, trace)
    return {output_name(name, ".jpg"): jpeg(drawing) for name, drawing in drawings.items()}


def judged_marks(found: Detections, dataset: CocoDetection, index: int) -> tuple[list[Mark], str]:
    """Compares the detections of an image with its objects, one to one within a class.

    Args:
        found: detections, best first.
        dataset: dataset with annotations.
        index: number of the image in it.

    Returns:
        What to draw: dashed boxes of objects that were missed, then detections, the best last. And
        how many objects were found.
    """
    truth = dataset.truth()
    own = truth.images == index
    xywh, labels, crowd = truth.boxes[own], truth.labels[own], truth.crowd[own]
    overlaps = overlaps_of(to_xywh(found.boxes), xywh, crowd)
    matches = match_image(overlaps, found.labels[:, None] == labels, crowd, IOU)
    missed = ~crowd
    missed[matches[matches >= 0]] = False
    names = dataset.class_names
    marks = [
        Mark((x, y, x + width, y + height), names[label], MISSED_COLOR, dashed=True)
        for (x, y, width, height), label in zip(
            xywh[missed].tolist(), labels[missed].tolist(), strict=True
        )
    ]
    colors = {WRONG: WRONG_COLOR, IN_CROWD: CROWD_COLOR}
    for row in reversed(range(len(found))):
        text = f"{names[found.labels[row]]} {found.scores[row]:.2f}"
        marks.append(Mark(found.boxes[row], text, colors.get(int(matches[row]), RIGHT_COLOR)))
    objects, wrong = int((~crowd).sum()), int((matches == WRONG).sum())
    summary = f"{objects - int(missed.sum())} of {objects} found"
    return marks, f"{summary}, {wrong} wrong" if wrong else summary
