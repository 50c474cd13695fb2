"""The middles of boxes: a naive loop over objects and cells."""

import numpy as np
import pytest
import torch

from core.targets.centripetal import centripetal_targets
from tests.targets.test_centripetal import OPTIONS, STRIDE, make_batch, random_objects


def by_loop(rows, usable):
    inside, covered = np.zeros((3, 12, 20), bool), np.zeros((12, 20), bool)
    for (x0, y0, x1, y1, label), trained in zip(rows, usable, strict=True):
        middle = np.array([x0 + x1, y0 + y1]) / 2 / STRIDE
        sides = np.array([x1 - x0, y1 - y0]) / STRIDE
        for y in range(12):
            for x in range(20):
                away = np.abs([x + 0.5, y + 0.5] - middle)
                if (away < np.maximum(0.3 * sides, 0.51)).all() and trained:
                    inside[int(label), y, x] = True
                if (away < np.maximum(sides / 2, 0)).all():
                    covered[y, x] = True
    return inside, ~covered | inside.any(0)


@pytest.mark.parametrize("some_unusable", [False, True])
def test_equals_a_loop(some_unusable):
    rng = np.random.default_rng(0)
    objects = [random_objects(rng, count).astype(np.float32) for count in (5, 0, 1, 9)]
    usable = [rng.random(len(rows)) < (0.6 if some_unusable else 2) for rows in objects]
    batch = make_batch(objects, [flags.tolist() for flags in usable] if some_unusable else None)
    regions = centripetal_targets(batch, **OPTIONS).centers
    assert regions.counted.shape == (4, 1, 12, 20)
    for row, (rows, flags) in enumerate(zip(objects, usable, strict=True)):
        inside, counted = by_loop(rows, flags)
        np.testing.assert_array_equal(regions.inside[row].numpy(), inside)
        np.testing.assert_array_equal(regions.counted[row, 0].numpy(), counted)


def test_every_object_has_a_cell():
    rng = np.random.default_rng(1)
    for _ in range(50):
        x, y = rng.uniform(0, [150, 90])
        regions = centripetal_targets(make_batch([[[x, y, x + 1, y + 1, 2]]]), **OPTIONS).centers
        assert regions.inside[0, 2].any() and not regions.inside[0, :2].any()
        assert regions.inside[0, 2, int((y + 0.5) / STRIDE), int((x + 0.5) / STRIDE)]
        assert regions.counted[0, 0][regions.inside[0, 2]].all()


def test_they_are_left_out_where_nothing_reads_them():
    assert centripetal_targets(make_batch([[]]), centers=False, **OPTIONS).centers is None
    regions = centripetal_targets(make_batch([[], []]), **OPTIONS).centers
    assert not regions.inside.any() and regions.counted.all()
    assert regions.inside.dtype == torch.bool
