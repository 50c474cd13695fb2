"""Batches: the same for any number of workers and any start; images that cannot be decoded."""

import itertools
import logging
import os
import signal
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from core.config.errors import UserError
from core.config.loading import config_from_dict
from core.data.images import Unreadable, read_image
from core.data.loader import (
    ShuffledStream,
    TrainingImages,
    batch_loader,
)
from core.data.samples import CropSettings
from core.data.samples.corners import sample_corners
from core.data.samples.fit import FitSettings, sample_fit
from core.data.unreadable import UnreadableImages, max_unreadable
from core.training.run import TrainingRun

CROP = CropSettings(
    input_size=(48, 64),
    scales=(0.6, 1.0, 1.3),
    border=32,
    crop=True,
    color=True,
    lighting=True,
)
SAMPLE = partial(sample_corners, settings=CROP)
FIT = partial(
    sample_fit,
    settings=FitSettings(
        input_size=(48, 64),
        zoom=(0.8, 1.25),
        shift=0.15,
        min_visible=0.2,
        vertical_flip=True,
        quarter_turns=True,
        color=True,
        lighting=True,
    ),
)
LARGE = partial(sample_corners, settings=replace(CROP, input_size=(511, 511)))


class Folder:
    """Stands in for a CocoDetection: JPEG files, image i with i % 4 boxes."""

    def __init__(self, path, num_images):
        self.path, self.num_images = path, num_images
        self.annotation_file = path / "instances.json"
        for number in range(num_images):
            image = np.random.default_rng(number).integers(0, 256, (60, 80, 3), np.uint8)
            cv2.imwrite(str(self.image_path(number)), image)

    def __len__(self):
        return self.num_images

    def image_path(self, number):
        return self.path / f"{number}.jpg"

    def boxes(self, number):
        low = np.random.default_rng(number).uniform(0, 40, (number % 4, 2))
        return np.concatenate([low, low + 20], 1).astype(np.float32)

    def labels(self, number):
        return np.arange(number % 4)


@pytest.fixture
def dataset(tmp_path):
    return Folder(tmp_path, 10)


def batches(loader, count):
    stream = iter(loader)
    return [next(stream) for _ in range(count)]


def same(first, second):
    return all(
        torch.equal(a, b)
        for a, b in zip(vars(first).values(), vars(second).values(), strict=True)
        if a is not None
    )


def options(**changes):
    return {"batch_size": 4, "seed": 3, "workers": 0, "prefetch": 3} | changes


def test_batches_are_the_same_for_any_number_of_workers(dataset):
    expected = batches(batch_loader(dataset, SAMPLE, **options()), 6)
    for workers in (1, 2):
        loader = batch_loader(dataset, SAMPLE, **options(workers=workers))
        assert all(map(same, batches(loader, 6), expected))


def test_mosaics_are_the_same_for_any_number_of_workers_and_ranks(dataset):
    changes = {"mosaic": 0.5, "start_iteration": 2}
    expected = batches(batch_loader(dataset, FIT, **options(**changes)), 6)
    for workers in (1, 2):
        loader = batch_loader(dataset, FIT, **options(workers=workers, **changes))
        assert all(map(same, batches(loader, 6), expected))
    part = batch_loader(dataset, FIT, **options(rows=slice(1, 3), **changes))
    for batch, rows in zip(expected, batches(part, 6), strict=True):
        assert torch.equal(batch.images[1:3], rows.images)
        assert all(map(torch.equal, objects(batch)[1:3], objects(rows)))


def noted(calls):
    """A sample function that notes the images it gets, by the sum of their pixels."""

    def sample(image, boxes, labels, rng, others=()):
        calls.append([image.astype(int).sum(), *(part[0].astype(int).sum() for part in others)])
        assert all(len(part[1]) == len(part[2]) for part in others)
        return sample_corners(image, boxes, labels, rng, CROP)

    return sample


@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_a_fraction_of_the_samples_is_made_of_four_images(dataset, fraction):
    sums = [read_image(dataset.image_path(n)).astype(int).sum() for n in range(10)]
    calls: list[list[int]] = []
    images = TrainingImages(dataset, noted(calls), 3, mosaic=fraction)
    items = [images[epoch, index] for epoch in range(20) for index in range(10)]
    assert [item[1] for item in items] == list(range(10)) * 20
    assert [sums.index(call[0]) for call in calls] == list(range(10)) * 20
    mosaics = [call[1:] for call in calls if len(call) > 1]
    assert all(len(others) == 3 for others in mosaics)
    assert abs(len(mosaics) - 200 * fraction) < 25
    drawn = Counter(sums.index(other) for others in mosaics for other in others)
    assert not mosaics or min(drawn[n] for n in range(10)) > 3
    assert len({tuple(others) for others in mosaics}) >= 0.9 * len(mosaics)


def test_without_mosaics_samples_are_as_before(dataset):
    """No number is drawn for them: a sample's generator starts with the sample."""
    for position in [(0, 3), (4, 9)]:
        rng = np.random.default_rng((3, *position))
        number = position[1]
        image = read_image(dataset.image_path(number))
        expected = SAMPLE(image, dataset.boxes(number), dataset.labels(number), rng)
        found = TrainingImages(dataset, SAMPLE, 3)[position][0]
        np.testing.assert_array_equal(found.image, expected.image)
        np.testing.assert_array_equal(found.color, expected.color)


def test_validation_has_no_mosaics(dataset):
    calls: list[list[int]] = []
    images = TrainingImages(dataset, noted(calls), None, mosaic=1.0)
    assert [images[0, n][1] for n in range(10)] == list(range(10))
    assert all(len(call) == 1 for call in calls)


def test_unreadable_images_of_mosaics_are_replaced_and_reported(dataset):
    corrupt_image(dataset, 2, "text")
    loaders = [
        batch_loader(dataset, FIT, **options(workers=workers, mosaic=1.0)) for workers in (0, 2)
    ]
    found = [batches(loader, 5) for loader in loaders]
    assert all(map(same, *found))
    assert {n for batch in found[0] for n in batch.unreadable.tolist()} == {2}
    calls: list[list[int]] = []
    images = TrainingImages(dataset, noted(calls), 3, mosaic=1.0)
    third = read_image(dataset.image_path(3)).astype(int).sum()
    reports = [images[epoch, 0][2] for epoch in range(40)]
    assert any(reports) and all(set(report) <= {2} for report in reports)
    assert all(call[1:].count(third) >= len(r) for call, r in zip(calls, reports, strict=True))


@pytest.mark.parametrize(("data_aug", "fraction"), [(True, 0.75), (False, 0.0)])
def test_training_takes_the_fraction_of_mosaics_from_the_config(dataset, data_aug, fraction):
    db = {"sampling": "fit", "mosaic": 0.75, "data_aug": data_aug}
    content = {"db": db, "system": {"workers": 0}}
    run = SimpleNamespace(
        config=config_from_dict(content, "CornerNet", ""),
        dataset=dataset,
        validation_dataset=dataset,
        detector=SimpleNamespace(sample=FIT),
        start=0,
        chunks=SimpleNamespace(rows=None),
        device=torch.device("cpu"),
    )
    assert TrainingRun.batches(run).dataset.mosaic == fraction
    assert TrainingRun.validation_batches(run).dataset.mosaic == 0


@pytest.mark.parametrize("start", [1, 4, 23])
def test_a_start_in_the_middle_gives_the_rest_of_the_stream(dataset, start):
    expected = batches(batch_loader(dataset, SAMPLE, **options()), start + 2)[start:]
    resumed = batch_loader(dataset, SAMPLE, **options(start_iteration=start))
    assert all(map(same, batches(resumed, 2), expected))


@pytest.mark.parametrize("ends", [[4], [1, 4], [3, 4], [1, 2, 3, 4]])
@pytest.mark.parametrize("workers", [0, 1])
def test_the_rows_of_all_ranks_are_the_batch_of_one_process(dataset, ends, workers):
    """Samples and order depend neither on the rank that makes a row nor on the stream's start."""

    def made_by(rows):
        changes = options(workers=workers, start_iteration=2, rows=rows)
        return batches(batch_loader(dataset, SAMPLE, **changes), 3)

    by_rank = [made_by(slice(*ends)) for ends in itertools.pairwise([0, *ends])]
    for batch, *parts in zip(made_by(None), *by_rank, strict=True):
        for name in ("images", "counts", "color", "index", "unreadable"):
            joined = torch.cat([getattr(part, name) for part in parts])
            assert torch.equal(joined, getattr(batch, name))
        boxes = [box for part in parts for box in objects(part)]
        assert all(map(torch.equal, boxes, objects(batch)))


def objects(batch):
    """Lists box and label of every object, image by image: the padding depends on the batch."""
    labelled = torch.cat([batch.boxes, batch.labels[:, :, None]], 2)
    return [rows[:count] for rows, count in zip(labelled, batch.counts, strict=True)]


def test_the_rows_of_all_ranks_are_the_validation_batch(dataset):
    def index(rows):
        arguments = {"batch_size": 4, "seed": None, "workers": 0, "prefetch": 1, "rows": rows}
        return [b.index for b in batches(batch_loader(dataset, SAMPLE, **arguments), 4)]

    parts = zip(index(slice(0, 3)), index(slice(3, 4)), strict=True)
    assert all(map(torch.equal, map(torch.cat, parts), index(None)))


def test_every_epoch_holds_every_image_once_in_another_order():
    stream = iter(ShuffledStream(10, 4, 0, 0))
    positions = [position for _ in range(25) for position in next(stream)]
    epochs = [[index for epoch, index in positions if epoch == e] for e in range(10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 10


def test_a_batch_larger_than_the_dataset():
    first = next(iter(ShuffledStream(3, 8, 0, 0)))
    assert Counter(index for _, index in first).most_common()[-1][1] == 2
    assert [epoch for epoch, _ in first] == [0, 0, 0, 1, 1, 1, 2, 2]


def test_seeds_and_epochs_change_the_samples(dataset):
    sample = TrainingImages(dataset, SAMPLE, 3)[0, 5][0].image
    assert (sample == TrainingImages(dataset, SAMPLE, 3)[0, 5][0].image).all()
    assert (sample != TrainingImages(dataset, SAMPLE, 3)[1, 5][0].image).any()
    assert (sample != TrainingImages(dataset, SAMPLE, 4)[0, 5][0].image).any()


def test_global_random_state_is_not_touched(dataset):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    batches(batch_loader(dataset, SAMPLE, **options(workers=1)), 1)
    assert torch.equal(before, torch.get_rng_state())


def test_validation_repeats_the_images_unchanged(dataset):
    loader = batch_loader(dataset, SAMPLE, batch_size=4, seed=None, workers=0, prefetch=1)
    found = batches(loader, 5)
    assert torch.cat([batch.index for batch in found]).tolist() == [*range(10), *range(10)]
    assert torch.equal(found[0].images[0], found[2].images[2])
    image = cv2.resize(cv2.imread(str(dataset.image_path(0))), (64, 48))
    np.testing.assert_array_equal(found[0].images[0].numpy(), image.transpose(2, 0, 1))


def test_about_as_many_batches_wait_as_asked_for(dataset):
    for workers, prefetch, waiting in [(1, 5, 5), (2, 5, 6), (2, 1, 2)]:
        loader = batch_loader(dataset, SAMPLE, **options(workers=workers, prefetch=prefetch))
        assert loader.prefetch_factor * workers == waiting


def test_a_batch_of_49_at_511_pixels_stays_below_40_megabytes(dataset):
    (batch,) = batches(batch_loader(dataset, LARGE, **options(batch_size=49)), 1)
    tensors = [tensor for tensor in vars(batch).values() if tensor is not None]
    assert batch.images.shape == (49, 3, 511, 511)
    assert sum(tensor.nbytes for tensor in tensors) < 40e6


def corrupt_image(dataset, number, kind):
    path = dataset.image_path(number)
    content = path.read_bytes()
    path.unlink()
    if kind == "text":
        path.write_text("not an image")
    elif kind == "empty":
        path.touch()
    elif kind == "cut":
        path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("kind", ["text", "empty", "cut", "missing"])
def test_an_unreadable_image_is_replaced_by_the_next(dataset, kind):
    corrupt_image(dataset, 9, kind)
    assert isinstance(read_image(dataset.image_path(9)), Unreadable)
    sample, number, unreadable = TrainingImages(dataset, SAMPLE, 0)[2, 9]
    assert (number, unreadable) == (0, [9])
    assert sample.image.shape == (3, 48, 64)


def test_unreadable_images_are_reported_with_the_batch_and_repeat_exactly(dataset):
    corrupt_image(dataset, 2, "text")
    corrupt_image(dataset, 3, "missing")
    found = [
        batches(batch_loader(dataset, SAMPLE, **options(workers=workers)), 3) for workers in (0, 2)
    ]
    assert all(map(same, *found))
    drawn = torch.cat([batch.index for batch in found[0]]).tolist()
    assert 2 not in drawn and 3 not in drawn
    assert {n for batch in found[0] for n in batch.unreadable.tolist()} == {2, 3}


def test_if_nothing_can_be_read_the_sample_is_empty_and_all_images_are_listed(dataset):
    for number in range(10):
        corrupt_image(dataset, number, "missing")
    sample, number, unreadable = TrainingImages(dataset, SAMPLE, 0)[0, 4]
    assert number == 4 and sorted(unreadable) == list(range(10))
    assert not sample.image.any() and len(sample.boxes) == 0


def note(watch, *numbers):
    watch.note(SimpleNamespace(unreadable=torch.tensor(numbers, dtype=torch.int64)))


def test_one_warning_per_image_and_the_end_above_one_percent(dataset, caplog):
    corrupt_image(dataset, 7, "text")
    dataset.num_images = 300
    watch = UnreadableImages(dataset)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            note(watch, 7, 120)
        note(watch)
    assert [record.message.split()[0] for record in caplog.records] == [
        str(dataset.image_path(7)),
        str(dataset.image_path(120)),
    ]
    assert "cannot be decoded" in caplog.records[0].message
    assert "does not exist" in caplog.records[1].message
    note(watch, 200)
    with pytest.raises(UserError, match="4 of the 300 images") as error:
        note(watch, 201)
    assert "\n" not in str(error.value)
    assert str(dataset.image_path(7)) in str(error.value)


def test_one_percent_is_of_the_whole_dataset():
    assert [max_unreadable(n) for n in (1, 99, 100, 364, 100000)] == [0, 0, 1, 3, 1000]


def test_a_killed_worker_ends_the_stream_within_seconds(dataset):
    stream = iter(batch_loader(dataset, SAMPLE, **options(workers=2, prefetch=2)))
    next(stream)
    victim = stream._workers[0].pid
    os.kill(victim, signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=str(victim)):
        for _ in range(100):
            next(stream)
    assert time.monotonic() - start < 10


def test_signals_to_the_process_group_leave_the_workers_alone(dataset):
    stream = iter(batch_loader(dataset, SAMPLE, **options(workers=1)))
    next(stream)
    assert os.getpgid(stream._workers[0].pid) != os.getpgid(0)
