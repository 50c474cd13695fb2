"""Targets of corners that point to their centre: a naive loop over objects and cells."""

import math

import numpy as np
import pytest
import torch

from core.data.color import NORMALIZE
from core.structures import Sample, collate
from core.targets.centripetal import centripetal_targets, guiding_targets
from core.targets.corners import corner_targets

OPTIONS = {
    "num_classes": 3,
    "output_size": (12, 20),
    "gaussian_bump": True,
    "gaussian_iou": 0.3,
    "gaussian_radius": -1,
}
STRIDE = 8
CLASS = 4  # column of a row of an object


def make_batch(objects, usable=None):
    """A batch of black images of 96 x 160 pixels with rows (x0, y0, x1, y1, label) of each."""
    image = np.zeros((3, 12 * STRIDE, 20 * STRIDE), np.uint8)
    rows = [np.array(boxes, np.float32).reshape(-1, 5) for boxes in objects]
    samples = [Sample(image, r[:, :4], r[:, CLASS].astype(np.int64), NORMALIZE, None) for r in rows]
    batch = collate(samples, list(range(len(samples))))
    if usable is None:
        return batch
    mask = torch.zeros(batch.labels.shape, dtype=torch.bool)
    for row, flags in enumerate(usable):
        mask[row, : len(flags)] = torch.tensor(flags)
    return type(batch)(**{**vars(batch), "usable": mask})


def random_objects(rng, count):
    start = rng.uniform(0, [159, 95], (count, 2))
    end = rng.uniform(start + 0.5, [160, 96])
    return np.concatenate([start, np.minimum(end, [159, 95]), rng.integers(0, 3, (count, 1))], 1)


def by_loop(boxes, window):
    """Dictionary of each object's trained cells: (corner, cell) -> offset, and half sizes."""
    cells, halves = [], []
    for x0, y0, x1, y1 in np.asarray(boxes, np.float64):
        found = {}
        for corner, (x, y) in (("tl", (x0 / STRIDE, y0 / STRIDE)), ("br", (x1 / 8, y1 / 8))):
            for dy in range(-(window // 2), window // 2 + 1):
                for dx in range(-(window // 2), window // 2 + 1):
                    column, row = int(x) + dx, int(y) + dy
                    if 0 <= column < 20 and 0 <= row < 12:
                        found[corner, row * 20 + column] = (x - column, y - row)
        cells.append(found)
        halves.append((math.log((x1 - x0) / 2 / STRIDE), math.log((y1 - y0) / 2 / STRIDE)))
    return cells, halves


@pytest.mark.parametrize("window", [1, 3, 5])
def test_equals_a_loop(window):
    rng = np.random.default_rng(0)
    objects = [random_objects(rng, count) for count in (7, 1, 0, 12)]
    targets = centripetal_targets(make_batch(objects), window=window, **OPTIONS)
    size = window * window
    for row, rows in enumerate(objects):
        cells, halves = by_loop(rows[:, :4].astype(np.float32), window)
        for number, (expected, half) in enumerate(zip(cells, halves, strict=True)):
            part = slice(number * size, (number + 1) * size)
            found = {}
            for corner in ("tl", "br"):
                mask = getattr(targets, f"{corner}_mask")[row, part]
                index = getattr(targets, f"{corner}_index")[row, part][mask].tolist()
                offset = getattr(targets, f"{corner}_offset")[row, part][mask].tolist()
                found |= {(corner, cell): tuple(xy) for cell, xy in zip(index, offset, strict=True)}
            assert found.keys() == expected.keys()
            for key, xy in expected.items():
                assert found[key] == pytest.approx(xy, abs=1e-5)
            shift = targets.shift[row, part]
            assert torch.allclose(shift, torch.tensor(half).expand(size, 2), atol=1e-5)
        rest = slice(len(rows) * size, None)
        assert not targets.tl_mask[row, rest].any() and not targets.br_mask[row, rest].any()
    assert torch.isfinite(targets.shift).all()


def test_a_window_of_one_cell_is_the_published_targets():
    batch = make_batch([random_objects(np.random.default_rng(1), 9), []])
    published, targets = corner_targets(batch, **OPTIONS), centripetal_targets(batch, **OPTIONS)
    for name in ("tl_heatmap", "br_heatmap", "tl_index", "br_index", "tl_offset", "br_offset"):
        assert torch.equal(getattr(targets, name), getattr(published, name)), name
    assert torch.equal(targets.tl_mask, published.mask)
    assert torch.equal(targets.br_mask, published.mask)


def test_boxes_that_are_not_usable_are_not_trained():
    objects = [[[8, 8, 40, 40, 0], [80, 16, 120, 64, 1]]]
    targets = centripetal_targets(make_batch(objects, [[False, True]]), window=3, **OPTIONS)
    assert targets.tl_mask[0].tolist() == [False] * 9 + [True] * 9
    assert targets.br_mask[0].tolist() == [False] * 9 + [True] * 9
    assert targets.tl_heatmap[0, 0].max() == 0 and targets.tl_heatmap[0, 1].max() == 1


def test_no_objects():
    targets = centripetal_targets(make_batch([[], []]), window=3, **OPTIONS)
    assert not targets.tl_mask.any() and not targets.br_mask.any()
    assert targets.tl_heatmap.max() == 0 and torch.isfinite(targets.shift).all()


@pytest.mark.parametrize("window", [1, 3])
def test_guiding_shifts_lead_from_cells_to_centres(window):
    rng = np.random.default_rng(0)
    objects = [random_objects(rng, count) for count in (7, 0, 12)]
    targets = centripetal_targets(make_batch(objects), window=window, **OPTIONS)
    for corner, sign, guiding in zip(("tl", "br"), (1, -1), guiding_targets(targets), strict=True):
        assert guiding.dtype == torch.float32 and guiding.isfinite().all()
        for row, rows in enumerate(objects):
            centers = (rows[:, :2] + rows[:, 2:4]) / 2 / STRIDE
            mask, index = (getattr(targets, f"{corner}_{key}")[row] for key in ("mask", "index"))
            assert mask.sum() >= len(rows)
            for number in mask.nonzero().flatten().tolist():
                y, x = divmod(index[number].item(), 20)
                expected = sign * (centers[number // window**2] - [x, y])
                np.testing.assert_allclose(guiding[row, number], expected, atol=1e-4)


def test_windows_are_cut_at_the_edges_of_the_map():
    targets = centripetal_targets(make_batch([[[0, 0, 159, 95, 0]]]), window=3, **OPTIONS)
    assert sorted(targets.tl_index[0][targets.tl_mask[0]].tolist()) == [0, 1, 20, 21]
    last = 12 * 20 - 1
    corner = [last - 21, last - 20, last - 1, last]
    assert sorted(targets.br_index[0][targets.br_mask[0]].tolist()) == corner
