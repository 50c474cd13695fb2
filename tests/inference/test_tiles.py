"""Detection in tiles finds what a detector finds in each tile, and nothing twice."""

import tracemalloc

import numpy as np
import pytest

from core.inference.tiles import TiledDetector, merge_tiles, plan_tiles
from core.models.loading import load_detector
from core.structures import Detections
from tests.support.stub_detectors import DrawnObjects
from tests.support.tiny_detector import write_config, write_snapshot

HEIGHT, WIDTH, TILE, OVERLAP = 6000, 8000, 1024, 0.2


def found(*boxes, scores=None, labels=None):
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores or np.linspace(0.9, 0.8, count), np.float32),
        np.array(labels or [0] * count, np.int64),
    )


def in_order(detections):
    """Boxes with their labels, by position."""
    rows = np.column_stack((detections.boxes, detections.labels))
    return rows[np.lexsort(rows.T)]


@pytest.mark.parametrize(
    "size, tile, overlap", [((600, 800), 256, 0.2), ((257, 256), 256, 0), ((99, 1000), 100, 0.9)]
)
def test_tiles_cover_the_image_and_overlap(size, tile, overlap):
    tiles = plan_tiles(size, tile, overlap)
    covered = np.zeros(size, int)
    for x0, y0, x1, y1 in tiles:
        assert 0 <= x0 < x1 <= size[1] and 0 <= y0 < y1 <= size[0]
        assert (x1 - x0, y1 - y0) == (min(tile, size[1]), min(tile, size[0]))
        covered[y0:y1, x0:x1] += 1
    assert covered.min() == 1
    for axis in (0, 1):
        starts = np.unique(tiles[:, axis])
        assert (np.diff(starts) <= tile * (1 - overlap)).all()
        fewest = -(-max(0, size[1 - axis] - tile) // int(tile * (1 - overlap))) + 1
        assert len(starts) == fewest


def test_an_image_smaller_than_a_tile_is_one_tile():
    assert plan_tiles((30, 40), 64, 0.2).tolist() == [[0, 0, 40, 30]]
    assert plan_tiles((64, 64), 64, 0.2).tolist() == [[0, 0, 64, 64]]


@pytest.fixture(scope="module")
def large():
    """An image with hundreds of small objects, many on the borders and in the corners of tiles."""
    rng = np.random.default_rng(0)
    tiles = plan_tiles((HEIGHT, WIDTH), TILE, OVERLAP)
    edges = [np.unique(tiles[:, [axis, axis + 2]]) for axis in (0, 1)]
    centers = [(x, y) for x in edges[0] for y in edges[1]]
    centers += [tuple(center) for center in rng.integers(0, (WIDTH, HEIGHT), (600, 2))]
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    rows = []
    for number, (x, y) in enumerate(centers):
        across, down = rng.integers(5, 60, 2)
        x0, y0 = max(0, x - across), max(0, y - down)
        x1, y1 = min(WIDTH, x + across), min(HEIGHT, y + down)
        around = image[max(0, y0 - 2) : y1 + 2, max(0, x0 - 2) : x1 + 2]
        if not around.any():
            image[y0:y1, x0:x1, number % 3] = 255
            rows.append((x0, y0, x1, y1, number % 3))
    rows = np.array(rows)
    assert len(rows) > 500
    return image, rows[np.lexsort(rows.T)]


def test_a_large_image_recall_as_on_tiles_none_double_memory_flat(large):
    image, rows = large
    detector = DrawnObjects()
    tracemalloc.start()
    merged = in_image(TiledDetector(detector, TILE, OVERLAP), image)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(in_order(merged), rows)
    assert (np.diff(merged.scores) <= 0).all()
    assert sum(detector.batches) == len(plan_tiles((HEIGHT, WIDTH), TILE, OVERLAP))
    assert peak < 20e6 < image.nbytes / 7  # bytes: maps of a tile, never of the image


def test_boxes_that_are_not_exact_are_merged_too(large):
    image, rows = large
    merged = in_image(TiledDetector(DrawnObjects(noise=1.5), TILE, OVERLAP), image[:2500, :2500])
    inside = rows[(rows[:, 2:4] <= 2500).all(1)]
    boxes = in_order(merged)
    distance = np.abs(boxes[:, None] - inside[None]).max(2)  # [found, drawn]
    assert ((distance < 2).sum(0) == 1).all()
    cut = (boxes[:, 2:4] > 2498).any(1)  # where this part of the image ends
    assert ((distance < 2).any(1) | cut).all()


class Lacking(DrawnObjects):
    """A detector without the memory for tiles 100 pixels wide."""

    def detections(self, image):
        if image.shape[1] == 100:
            raise MemoryError
        return super().detections(image)


def test_a_tile_too_large_for_the_memory():
    images = [np.zeros((64, width, 3), np.uint8) for width in (90, 100, 90)]
    problems = [each.problem for each in TiledDetector(Lacking(), 256, 0.25).found(images)]
    assert problems[0] is problems[2] is None
    assert problems[1].startswith("has a tile that is too large for the memory (100 x 64 pixels)")


def in_image(detector, image):
    (found,) = detector.found([image])
    return found.detections


def test_images_of_a_stream_stay_in_order_and_share_batches(large):
    image, _ = large
    images = [image[:300, :300], image[300:1000, :900], image[:64, :64], image[500:800, 90:700]]
    detector = DrawnObjects()
    tiled = TiledDetector(detector, 256, 0.25)
    together = [each.detections for each in tiled.found(images, batch=5)]
    assert detector.batches[:-1] == [5] * (len(detector.batches) - 1)
    for one, detections in zip(images, together, strict=True):
        np.testing.assert_array_equal(in_order(detections), in_order(in_image(tiled, one)))


TWO = np.array([[0, 0, 100, 80], [60, 0, 160, 80]])  # tiles side by side that overlap by 40 pixels


@pytest.mark.parametrize(
    "left, right, merged",
    [
        # Cut by the first tile, whole in the second; the cut box has the higher score.
        (found([70, 10, 98, 40]), found([10, 10, 50, 40]), [[70, 10, 110, 40]]),
        # Cut in the first, and not found in the second: that one saw more of it.
        (found([70, 10, 100, 40]), found(), []),
        # Whole in both: the better one.
        (found([65, 10, 95, 40]), found([6, 11, 36, 41]), [[65, 10, 95, 40]]),
        # Another class at the same place.
        (
            found([65, 10, 95, 40]),
            found([5, 10, 35, 40], labels=[1]),
            [[65, 10, 95, 40], [65, 10, 95, 40]],
        ),
        # Larger than the overlap: whole in no tile, so its parts stay.
        (
            found([30, 10, 100, 40]),
            found([0, 10, 70, 40]),
            [[30, 10, 100, 40], [60, 10, 130, 40]],
        ),
        # At the image's own border nothing is cut.
        (found([0, 0, 30, 80]), found([70, 0, 100, 80]), [[0, 0, 30, 80], [130, 0, 160, 80]]),
        # Two boxes that the detector left, which overlap where no other tile sees them.
        (found([5, 5, 45, 45], [6, 6, 46, 46]), found(), [[5, 5, 45, 45], [6, 6, 46, 46]]),
    ],
)
def test_the_rule(left, right, merged):
    result = merge_tiles([left, right], TWO, (80, 160))
    assert sorted(result.boxes.tolist()) == merged


def test_no_detections():
    assert len(merge_tiles([found(), found()], TWO, (80, 160))) == 0


def test_a_network_on_tiles(tmp_path):
    """An image of one tile gives what it gives without tiles; a larger one, boxes all over it."""
    config = write_config(tmp_path)
    write_snapshot(tmp_path, 20, ("person", "cat", "toothbrush"))
    plain = load_detector(str(config), device="cpu")
    noise = np.random.default_rng(3).integers(0, 256, (160, 240, 3)).astype(np.uint8)
    tiled = TiledDetector(plain, 128, 0.25)
    small, large = (each.detections for each in tiled.found([noise[:100, :120], noise]))
    expected = plain.detections(noise[:100, :120])
    np.testing.assert_array_equal(small.boxes, expected.boxes)
    np.testing.assert_array_equal(small.scores, expected.scores)
    assert len(large) > len(expected) > 0
    assert (large.boxes >= 0).all() and (large.boxes <= (240, 160, 240, 160)).all()
    assert large.boxes[:, 2].max() > 128 and large.boxes[:, 3].max() > 128
