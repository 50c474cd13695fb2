"""Detection in several images at once: as one at a time, in order, in few batches."""

import itertools

import numpy as np
import pytest
import torch

from core.data.images import Unreadable
from core.inference.batches import BatchedInference
from core.inference.predict import Predict
from core.inference.requests import CanvasRequest
from core.structures import Detections
from tests.support.inference import detect
from tests.support.model_builders import detector_that_finds

CPU = torch.device("cpu")
SIZES = [(90, 120), (120, 90), (90, 121), (64, 300), (90, 120), (70, 70), (30, 40), (128, 255)]


def images_of(sizes, seed=0):
    rng = np.random.default_rng(seed)
    small = (rng.integers(0, 256, (-(-h // 8), -(-w // 8), 3)) for h, w in sizes)
    return [
        image.repeat(8, 0).repeat(8, 1)[:h, :w].astype(np.uint8)
        for image, (h, w) in zip(small, sizes, strict=True)
    ]


def in_order(found):
    """Rows of detections, sorted so that equal scores do not matter."""
    rows = np.column_stack([found.labels, found.boxes, found.scores])
    return rows[np.lexsort(rows.round(3).T)]


@pytest.fixture(
    scope="module",
    params=["CornerNet", "CornerNet_Saccade", "CenterNet", "FasterRCNN", "mirrored", "scales"],
)
def alone(request):
    """A detector, and what it finds in each image of :data:`SIZES` alone."""
    settings = {
        "mirrored": ("CornerNet_Squeeze", {"test_flipped": True}),
        "scales": ("CenterNet", {"test_scales": [0.5, 1], "test_flipped": True}),
    }
    name, db = settings.get(request.param, (request.param, {}))
    detector = detector_that_finds(name, **db)
    detector.network.eval()
    return detector, [detect(detector, image) for image in images_of(SIZES)]


@pytest.mark.parametrize(("batch", "threaded"), [(1, True), (3, True), (8, False)])
def test_equal_to_one_image_at_a_time(alone, batch, threaded):
    detector, wanted = alone
    images = images_of(SIZES)
    inference = BatchedInference(detector.infer, detector.predict(CPU), batch, threaded)
    together = list(inference(iter(images)))
    assert all(found.image is image for found, image in zip(together, images, strict=True))
    for found, expected in zip(together, wanted, strict=True):
        assert found.problem is None and len(expected) > 0
        np.testing.assert_allclose(in_order(found.detections), in_order(expected), atol=1e-3)
        np.testing.assert_allclose(found.detections.scores, expected.scores, atol=1e-5)
    assert inference.timing.network > 0 and inference.timing.suppressing > 0


class Seen:
    """A network that gives the mean of each image, and notes the batches that it sees."""

    def __init__(self, fails=lambda images: None):
        self.batches, self.fails = [], fails

    def __call__(self, images):
        self.batches.append(tuple(images.shape))
        self.fails(images)
        return images.mean((1, 2, 3))


def steps_of(image, trace=None, requests=1):
    """Asks for the mean ``requests`` times, of canvases of one size for sizes of up to 64."""
    height, width = (-(-side // 64) * 64 for side in image.shape[:2])
    canvas = np.zeros((height, width, 3), np.uint8)
    canvas[: image.shape[0], : image.shape[1]] = image
    means = []
    for _ in range(requests):
        means.append((yield CanvasRequest(canvas, mirrored=False)))
    scores = torch.cat(means).numpy()
    return Detections(np.zeros((len(scores), 4), np.float32), scores, np.zeros(len(scores), int))


def run(network, images, batch, infer=steps_of, threaded=True):
    predict = Predict(network, lambda outputs: outputs, CPU)
    return list(BatchedInference(infer, predict, batch, threaded)(images))


def test_images_of_one_canvas_go_together_whatever_their_order():
    sizes = [(60, 60), (60, 100), (64, 64), (50, 128)] * 6
    network = Seen()
    run(network, images_of(sizes), 4)
    assert sorted(network.batches) == [(4, 3, 64, 64)] * 3 + [(4, 3, 64, 128)] * 3


def test_what_is_left_goes_in_smaller_batches():
    network = Seen()
    found = run(network, images_of([(60, 60)] * 7 + [(60, 100)] * 2), 4)
    assert sorted(network.batches) == [(2, 3, 64, 128), (3, 3, 64, 64), (4, 3, 64, 64)]
    assert len(found) == 9


def test_requests_of_one_image_come_one_after_the_other():
    def infer(image, trace=None):
        return steps_of(image, requests=3)

    found = run(Seen(), images_of([(60, 60)] * 5), 2, infer)
    for each in found:
        assert len(each.detections) == 3 and len(set(each.detections.scores)) == 1


def test_it_reads_a_few_batches_ahead_and_no_more():
    read = []

    def source():
        for number in itertools.count():
            read.append(number)
            yield np.full((60, 60, 3), number % 256, np.uint8)

    predict = Predict(Seen(), lambda outputs: outputs, CPU)
    found = BatchedInference(steps_of, predict, 3)(source())
    for number, each in enumerate(itertools.islice(found, 40)):
        assert (each.image == number).all()
        assert len(read) <= number + 1 + 12
    found.close()


def test_large_images_are_not_read_ahead():
    read = []

    def source():
        for number in range(6):
            read.append(number)
            yield np.lib.stride_tricks.as_strided(
                np.zeros(1, np.uint8), (2**14, 2**13, 3), (0, 0, 0)
            )

    def infer(image, trace=None):
        return steps_of(image[:8, :8])

    predict = Predict(Seen(), lambda outputs: outputs, CPU)
    for number, _ in enumerate(BatchedInference(infer, predict, 4)(source())):
        assert len(read) == number + 1


def test_a_batch_too_large_for_the_memory_is_divided():
    def fails(images):
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    network = Seen(fails)
    found = run(network, images_of([(60, 60)] * 10), 8)
    assert [each.problem for each in found] == [None] * 10
    assert [shape[0] for shape in network.batches][:3] == [8, 4, 2]
    assert set(shape[0] for shape in network.batches[2:]) == {2}


def test_an_image_too_large_by_itself_is_skipped_and_named():
    def fails(images):
        if images.shape[3] > 64:
            raise torch.OutOfMemoryError("CUDA out of memory")

    images = images_of([(60, 60), (60, 100), (60, 60)])
    found = run(Seen(fails), images, 2)
    assert [each.problem is None for each in found] == [True, False, True]
    assert found[1].problem.startswith("is too large for the memory (100 x 60 pixels)")
    assert len(found[1].detections) == 0


def test_an_unreadable_image_keeps_its_place():
    images = images_of([(60, 60)] * 3)
    images[1] = Unreadable("is too large", too_large=True)
    found = run(Seen(), images, 2)
    assert [each.problem for each in found] == [None, "is too large", None]
    assert found[1].image is None


@pytest.mark.parametrize("threaded", [False, True])
@pytest.mark.parametrize("where", ["source", "network", "layout", "suppression"])
def test_an_error_comes_in_the_place_of_its_image(where, threaded):
    good, bad = images_of([(60, 60)] * 4), np.full((60, 100, 3), 7, np.uint8)

    def source():
        yield from good
        if where == "source":
            raise ValueError("spoilt")
        yield bad
        yield from good

    def infer(image, trace=None):
        if where == "layout" and image is bad:
            raise ValueError("spoilt")
        found = yield from steps_of(image)
        if where == "suppression" and image is bad:
            raise ValueError("spoilt")
        return found

    def fails(images):
        if where == "network" and images.shape[3] > 64:
            raise ValueError("spoilt")

    predict = Predict(Seen(fails), lambda outputs: outputs, CPU)
    found = BatchedInference(infer, predict, 3, threaded)(source())
    assert len(list(itertools.islice(found, 4))) == 4
    with pytest.raises(ValueError, match="spoilt"):
        next(found)


def test_nothing_in_nothing_out():
    assert run(Seen(), [], 4) == []
