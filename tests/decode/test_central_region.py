"""Pairing by the central region: the rule by hand, perfect maps, and a slow search as oracle."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from core.decode.central_region import decode_central_region
from core.structures import GuidedMaps
from core.targets.centripetal import centripetal_targets
from tests.decode.test_centripetal import layout, perfect_maps
from tests.support.offset_bins import offsets_of
from tests.targets.test_centripetal import OPTIONS, STRIDE, make_batch

SETTINGS = {"stride": STRIDE, "top_k": 40, "kernel": 3, "num_dets": 100}


def guided(maps) -> GuidedMaps:
    """The maps with guiding shifts, which nobody may read."""
    nothing = torch.full_like(maps.tl_shift, float("nan"))
    return GuidedMaps(*maps[:4], *map(offsets_of, maps[4:6]), nothing, nothing)


def maps_of(objects) -> GuidedMaps:
    """Perfect maps of one image."""
    return guided(perfect_maps(centripetal_targets(make_batch([objects]), **OPTIONS)))


def score(maps, **changes):
    """The best score where one corner is, as it is changed: log of the half width and height."""
    return decode_central_region(maps._replace(**changes), **SETTINGS)[0, 0, 4].item()


def with_half(shift, half_width, half_height):
    """A map of shifts that says one half width and height everywhere; pixels."""
    halves = torch.tensor([half_width, half_height]) / STRIDE
    return halves.log()[None, :, None, None].expand_as(shift)


@pytest.mark.parametrize(
    ("width", "height", "fraction"),
    [(50, 70, 1 / 2.4), (50, 70.2, 1 / 2.1), (24, 24, 1 / 2.4), (120, 64, 1 / 2.1)],
)
def test_both_corners_must_point_into_the_central_region(width, height, fraction):
    """3,500 square pixels are small, 3,510 are large; a prediction moves to the edge and over."""
    maps = maps_of(np.array([[16, 16, 16 + width, 16 + height, 0]], np.float32))
    assert score(maps) == pytest.approx(1, abs=1e-4)
    for corner in ("tl_shift", "br_shift"):
        for axis, side in enumerate((width, height)):
            for sign in (-1, 1):
                scores = []
                for part in (0.98, 1.02):  # of the way from the middle to the edge
                    halves = [width / 2, height / 2]
                    halves[axis] += sign * part * fraction * side / 2
                    shift = with_half(maps.tl_shift, *halves)
                    scores.append(score(maps, **{corner: shift}))
                # Off along one axis alone, the predictions span no area.
                assert scores == pytest.approx([1, -1], abs=1e-4), (corner, axis, sign)


def test_the_weight_by_hand():
    """A box of 120 x 64 pixels; its region is 57.14 x 30.48 and the centres are 10 x 6 apart."""
    maps = maps_of(np.array([[16, 16, 136, 80, 0]], np.float32))
    tl, br = with_half(maps.tl_shift, 64, 30), with_half(maps.br_shift, 66, 40)
    apart = {"tl_shift": tl, "br_shift": br}  # centres (80, 46) and (70, 40)
    expected = np.exp(-10 * 6 / (120 / 2.1 * 64 / 2.1))
    assert score(maps, **apart) == pytest.approx(expected, abs=1e-4)
    heats = {"tl_heatmap": torch.full_like(maps.tl_heatmap, -9.0)}
    heats["tl_heatmap"][0, 0, 2, 2] = 0  # probability 0.5; the other corner's is 1
    assert score(maps, **apart, **heats) == pytest.approx(0.75 * expected, abs=1e-4)


def test_small_boxes_have_a_smaller_region():
    """A box of 24 x 40 pixels; its region is 10 x 16.67 and the centres are 4 x 2 apart."""
    maps = maps_of(np.array([[16, 16, 40, 56, 0]], np.float32))
    apart = {"tl_shift": with_half(maps.tl_shift, 14, 20)}
    apart["br_shift"] = with_half(maps.br_shift, 10 + 4, 22)  # centres (30, 36) and (26, 34)
    expected = np.exp(-4 * 2 / (24 / 2.4 * 40 / 2.4))
    assert score(maps, **apart) == pytest.approx(expected, abs=1e-4)


def test_the_stride_decides_what_is_large():
    """6.25 x 8.75 cells are 3,500 square pixels at stride 8, and more at stride 9."""
    maps = maps_of(np.array([[16, 16, 66, 86, 0]], np.float32))
    between = (1 / 2.4 + 1 / 2.1) / 2
    shift = with_half(maps.tl_shift, 25 * (1 + between), 35)
    scores = [
        decode_central_region(maps._replace(tl_shift=shift), **{**SETTINGS, "stride": stride})
        for stride in (8, 9)
    ]
    assert [s[0, 0, 4].item() for s in scores] == pytest.approx([-1, 1], abs=1e-4)


def sorted_rows(boxes):
    return boxes[np.lexsort(boxes.T)]


@pytest.mark.parametrize("nested", [False, True])
def test_perfect_maps_give_back_the_boxes(nested):
    """All of hundreds of layouts; corners of objects with one centre make more pairs."""
    more = 0
    for seed in range(200):
        objects = layout(np.random.default_rng(seed))
        if not nested:
            centers = (objects[:, :2] + objects[:, 2:4]) / 2
            same = np.abs(centers[:, None] - centers).max(2) < 1
            objects = objects[~np.tril(same, -1).any(1)]
        found = decode_central_region(maps_of(objects), **{**SETTINGS, "kernel": 1})[0].numpy()
        found = found[found[:, 4] > 0.9999]
        boxes = np.concatenate([found[:, :4] * STRIDE, found[:, 7:]], 1)
        distance = np.abs(boxes[:, None] - objects).max(2)  # [found, objects]
        assert (distance.min(0) < 1e-2).all(), seed
        more += len(boxes) - len(objects)
    assert more > 100 if nested else more == 0


def test_equal_neighbours_are_told_apart():
    """In rows and columns, one class, touching: no pair of corners of two objects."""
    objects = np.array(
        [(8 + 24 * i, 8 + 20 * j, 32 + 24 * i, 28 + 20 * j, 0) for i in range(5) for j in range(4)],
        np.float32,
    )
    found = decode_central_region(maps_of(objects), **{**SETTINGS, "kernel": 1})[0].numpy()
    found = found[found[:, 4] > 0.01]
    boxes = np.concatenate([found[:, :4] * STRIDE, found[:, 7:]], 1)
    np.testing.assert_allclose(sorted_rows(boxes), sorted_rows(objects), atol=1e-2)


def by_search(maps, row, stride, top_k, kernel, num_dets):
    """Every pair of peaks of one image, one after the other; rows of objects only."""
    corners = []
    for heatmap, shift, offset in zip(maps[0:2], maps[2:4], maps[4:6], strict=True):
        scores = heatmap[row].double().sigmoid()
        peaks = F.max_pool2d(scores, kernel, 1, kernel // 2) == scores
        cells = sorted(peaks.nonzero().tolist(), key=lambda cell: -scores[tuple(cell)])[:top_k]
        corners.append(
            [
                (
                    label,
                    scores[label, y, x].item(),
                    np.array([x, y]) + offset[row, :, y, x].double().numpy(),
                    np.exp(shift[row, :, y, x].double().numpy()),
                )
                for label, y, x in cells
            ]
        )
    found = []
    for tl_label, tl_score, tl, tl_half in corners[0]:
        for br_label, br_score, br, br_half in corners[1]:
            width, height = sides = br - tl
            if tl_label != br_label or min(sides) <= 0:
                continue
            region = sides / (2.1 if width * height * stride**2 > 3500 else 2.4)
            low, high = (tl + br - region) / 2, (tl + br + region) / 2
            centers = (tl + tl_half, br - br_half)
            if all((low < center).all() and (center < high).all() for center in centers):
                between = abs(np.prod(centers[1] - centers[0]))
                weight = np.exp(-between / np.prod(region))
                score = weight * (tl_score + br_score) / 2
                found.append((*tl, *br, score, tl_score, br_score, tl_label))
    found.sort(key=lambda detection: -detection[4])
    return np.array(found[:num_dets], np.float32).reshape(-1, 8)


def random_maps(batch=3, seed=0):
    """Maps with sizes that fit now and then, to boxes of both sizes."""
    g = torch.Generator().manual_seed(seed)
    maps = [torch.randn(batch, 2, 12, 20, generator=g) for _ in range(6)]
    maps[2], maps[3] = 1 + 0.4 * maps[2], 1 + 0.4 * maps[3]
    return GuidedMaps(*maps, maps[2], maps[3])


def test_equals_a_search():
    settings = {**SETTINGS, "top_k": 30, "num_dets": 60}
    maps, sizes = random_maps(), []
    decoded = decode_central_region(maps, **settings)
    assert decoded.shape == (3, 60, 8) and decoded.dtype == torch.float32
    for row in range(3):
        wanted = by_search(maps, row, **settings)
        found = decoded[row][decoded[row, :, 4] > -1].numpy()
        np.testing.assert_allclose(found, wanted, atol=1e-4)
        sizes += (np.prod(wanted[:, 2:4] - wanted[:, :2], 1) * STRIDE**2 > 3500).tolist()
    assert 2 < sum(sizes) < len(sizes) - 2


def test_no_corners_at_all():
    decoded = decode_central_region(maps_of([]), **SETTINGS)
    assert torch.isfinite(decoded).all() and (decoded[..., 4] < 1e-3).all()


@pytest.mark.parametrize("shift", [-200.0, 200.0, float("nan")])
def test_sizes_beyond_all_measure_are_no_objects(shift):
    maps = maps_of(np.array([[16, 16, 80, 64, 0]], np.float32))
    beyond = torch.full_like(maps.tl_shift, shift)
    decoded = decode_central_region(maps._replace(tl_shift=beyond, br_shift=beyond), **SETTINGS)
    assert (decoded[..., 4] == -1).all()


def test_half_precision_and_cells_alone():
    half = GuidedMaps(*(map_.bfloat16() for map_ in random_maps()))
    wanted = decode_central_region(GuidedMaps(*(map_.float() for map_ in half)), **SETTINGS)
    assert torch.equal(decode_central_region(half, **SETTINGS), wanted)
