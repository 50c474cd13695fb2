"""Pairing by predicted sizes: perfect maps give the boxes back, and a slow search as oracle."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from core.decode.corners import decode_centripetal, decode_corners
from core.structures import CentripetalMaps, CornerMaps
from core.targets.centripetal import centripetal_targets
from tests.support.offset_bins import bins_of, offsets_of
from tests.targets.test_centripetal import OPTIONS, STRIDE, make_batch

SETTINGS = {"top_k": 40, "kernel": 3, "num_dets": 100, "no_border": False}
ABSENT, PRESENT = -12.0, 12.0


def perfect_maps(targets) -> CentripetalMaps:
    """Maps that a perfect network would make: they are the targets, with nothing elsewhere."""
    batch, _, height, width = targets.tl_heatmap.shape
    maps = {}
    for corner in ("tl", "br"):
        heatmap = getattr(targets, f"{corner}_heatmap")
        maps[f"{corner}_heatmap"] = torch.where(heatmap == 1, PRESENT, ABSENT)
        index, mask = getattr(targets, f"{corner}_index"), getattr(targets, f"{corner}_mask")
        for head, values in (
            ("shift", targets.shift),
            ("offset", getattr(targets, f"{corner}_offset")),
        ):
            plane = torch.zeros(batch, height * width, 2)
            for row, number in mask.nonzero().tolist():
                plane[row, index[row, number]] = values[row, number]
            maps[f"{corner}_{head}"] = plane.transpose(1, 2).unflatten(2, (height, width))
        maps[f"{corner}_offset_bins"] = bins_of(maps.pop(f"{corner}_offset"), dim=1)
    inside = torch.zeros(1, dtype=torch.bool) if targets.centers is None else targets.centers.inside
    return CentripetalMaps(**maps, center_heatmap=torch.where(inside, PRESENT, ABSENT))


def layout(rng) -> np.ndarray:
    """Objects (x0, y0, x1, y1, label), no two with the same cell for the same corner.

    Equal ones in a row that touch, nested ones with a common centre, others anywhere; often all of
    one class.
    """
    objects = []
    width, height = rng.uniform(10, 36, 2)
    x, y = rng.uniform(0, 20, 2)
    objects += [(x + i * width, y, x + (i + 1) * width, y + height) for i in range(4)]
    center = rng.uniform([60, 40], [100, 56])
    for half in np.cumsum(rng.uniform(9, 12, 3)):
        objects.append((*(center - half), *(center + half)))
    for _ in range(6):
        start = rng.uniform(0, [140, 80])
        objects.append((*start, *(start + rng.uniform(9, 60, 2))))
    one_class = rng.random() < 0.5
    kept, taken = [], set()
    for x0, y0, x1, y1 in objects:
        if x0 < 0 or y0 < 0 or x1 > 159 or y1 > 95:
            continue
        cells = {("tl", int(x0 / STRIDE), int(y0 / STRIDE))}
        cells.add(("br", int(x1 / STRIDE), int(y1 / STRIDE)))
        if not cells & taken:
            taken |= cells
            kept.append((x0, y0, x1, y1, 0 if one_class else rng.integers(3)))
    return np.array(kept, np.float32)


def test_perfect_maps_give_back_the_boxes():
    for seed in range(300):
        objects = layout(np.random.default_rng(seed))
        targets = centripetal_targets(make_batch([objects]), **OPTIONS)
        found = decode_centripetal(perfect_maps(targets), **{**SETTINGS, "kernel": 1})[0].numpy()
        found = found[found[:, 4] > 0.99]  # others pair corners of nested boxes by chance
        assert len(found) == len(objects), seed
        boxes = np.concatenate([found[:, :4] * STRIDE, found[:, 7:]], 1)
        order, wanted = np.lexsort(boxes.T), objects[np.lexsort(objects.T)]
        np.testing.assert_allclose(boxes[order], wanted, atol=1e-2)


def test_where_embeddings_fail():
    """Equal objects side by side: of all pairs, sizes find the right ones, embeddings cannot."""
    objects = np.array([(8 + 24 * i, 16, 28 + 24 * i, 56, 0) for i in range(6)], np.float32)
    targets = centripetal_targets(make_batch([objects]), **OPTIONS)
    maps = perfect_maps(targets)
    assert (decode_centripetal(maps, **SETTINGS)[0, :, 4] > 0.5).sum() == len(objects)
    equal = torch.zeros(1, 1, 12, 20)
    embedded = CornerMaps(*maps[:2], equal, equal, *map(offsets_of, maps[4:6]))
    pairs = decode_corners(embedded, ae_threshold=0.5, **SETTINGS)
    assert (pairs[0, :, 4] > 0.9).sum() == 6 * 7 / 2


def by_search(maps: CentripetalMaps, row: int, **settings) -> np.ndarray:
    """Every pair of peaks of one image, one after the other; rows of real objects only."""
    corners = []
    offsets = map(offsets_of, maps[4:6])
    for heatmap, shift, offset in zip(maps[0:2], maps[2:4], offsets, strict=True):
        scores = heatmap[row].double().sigmoid()
        pooled = F.max_pool2d(scores, settings["kernel"], 1, settings["kernel"] // 2)
        cells = (scores == pooled).nonzero().tolist()
        cells = sorted(cells, key=lambda cell: -scores[tuple(cell)])[: settings["top_k"]]
        corners.append(
            [
                (
                    (label, y, x),
                    scores[label, y, x].item(),
                    np.exp(shift[row, :, y, x].double().numpy()),
                    np.array([x, y]) + offset[row, :, y, x].double().numpy(),
                )
                for label, y, x in cells
            ]
        )
    height, width = maps.tl_heatmap.shape[2:]
    found = []
    for (label, tl_y, tl_x), tl_score, tl_half, tl in corners[0]:
        for (br_label, br_y, br_x), br_score, br_half, br in corners[1]:
            at_border = tl_y == 0 or tl_x == 0 or br_y == height - 1 or br_x == width - 1
            if label != br_label or (br <= tl).any() or (settings["no_border"] and at_border):
                continue
            half = (br - tl) / 2
            worst = max((abs(tl_half - half) / half).max(), (abs(br_half - half) / half).max())
            if worst <= 0.5:
                score = np.sqrt(tl_score * br_score) * np.sqrt(1 - worst)
                x, y = ((tl + br) / 2).astype(int).clip(0, [width - 1, height - 1])
                score = np.sqrt(score * maps.center_heatmap[row, label, y, x].sigmoid().item())
                found.append((*tl, *br, score, tl_score, br_score, label))
    found.sort(key=lambda detection: -detection[4])
    return np.array(found[: settings["num_dets"]], np.float32).reshape(-1, 8)


@pytest.mark.parametrize("no_border", [False, True])
def test_equals_a_search(no_border):
    settings = {**SETTINGS, "top_k": 30, "num_dets": 60, "no_border": no_border}
    g = torch.Generator().manual_seed(6)
    maps = CentripetalMaps(
        *(torch.randn(3, channels, 12, 20, generator=g) for channels in (2, 2, 2, 2, 18, 18, 2))
    )
    maps = maps._replace(tl_shift=1 + 0.4 * maps.tl_shift, br_shift=1 + 0.4 * maps.br_shift)
    decoded = decode_centripetal(maps, **settings)
    assert decoded.shape == (3, 60, 8) and decoded.dtype == torch.float32
    for row in range(3):
        wanted = by_search(maps, row, **settings)
        found = decoded[row][decoded[row, :, 4] > -1].numpy()
        assert len(wanted) > 2
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_a_pair_that_disagrees_by_more_than_half_is_no_object():
    objects = np.array([[16, 16, 80, 64, 0]], np.float32)
    maps = perfect_maps(centripetal_targets(make_batch([objects]), **OPTIONS))
    scores = []
    for factor in (1.0, 1.2, 1.49, 1.51, 0.51, 0.49):
        moved = maps._replace(tl_shift=maps.tl_shift + np.log(factor))
        scores.append(decode_centripetal(moved, **SETTINGS)[0, 0, 4].item())
    wanted = [1, 0.8**0.25, 0.51**0.25, -1, 0.51**0.25, -1]
    assert scores == pytest.approx(wanted, abs=1e-3)


def test_a_pair_without_a_centre_scores_little():
    """Two corners that agree, of nothing: in the middle there is no object, or one of a class."""
    objects = np.array([[16, 16, 80, 64, 0]], np.float32)
    maps = perfect_maps(centripetal_targets(make_batch([objects]), **OPTIONS))
    empty = maps._replace(center_heatmap=torch.full_like(maps.center_heatmap, ABSENT))
    other = maps._replace(center_heatmap=maps.center_heatmap.flip(1))
    half = maps._replace(center_heatmap=torch.zeros_like(maps.center_heatmap))
    scores = [decode_centripetal(each, **SETTINGS)[0, 0, 4] for each in (maps, empty, other, half)]
    assert scores == pytest.approx([1, 0.0025, 0.0025, 0.5**0.5], abs=1e-3)


def test_no_corners_at_all():
    maps = perfect_maps(centripetal_targets(make_batch([[]]), **OPTIONS))
    decoded = decode_centripetal(maps, **SETTINGS)
    assert torch.isfinite(decoded).all() and (decoded[..., 4] < 1e-3).all()


def test_half_precision_and_cells_alone():
    g = torch.Generator().manual_seed(1)
    channels = (2, 2, 2, 2, 18, 18, 2)
    half = CentripetalMaps(*(torch.randn(1, c, 12, 20, generator=g).bfloat16() for c in channels))
    wanted = decode_centripetal(CentripetalMaps(*(m.float() for m in half)), **SETTINGS)
    assert torch.equal(decode_centripetal(half, **SETTINGS), wanted)
