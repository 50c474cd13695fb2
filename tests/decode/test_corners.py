"""Decoding: the reference's detections, and a slow search as the oracle of the edge cases."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from core.decode.corners import decode_corners
from core.structures import CornerMaps

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "decode.npz")
META = json.loads(str(GOLDEN["meta"]))
HEADS = ("tl_heat", "br_heat", "tl_tag", "br_tag", "tl_off", "br_off")
SMALL = {"top_k": 9, "ae_threshold": 0.5, "kernel": 3, "num_dets": 30, "no_border": False}


def golden_case(number: int) -> tuple[CornerMaps, dict]:
    meta = dict(META[number])
    maps = CornerMaps(*(torch.from_numpy(GOLDEN[f"{meta['maps']}_{head}"]) for head in HEADS))
    if meta.pop("no_off", False):
        zeros = torch.zeros_like(maps.tl_offset)
        maps = maps._replace(tl_offset=zeros, br_offset=zeros)
    del meta["maps"]
    return maps, {"top_k": meta.pop("K"), **meta}


def random_maps(batch: int = 2, height: int = 12, width: int = 15, seed: int = 0) -> CornerMaps:
    g = torch.Generator().manual_seed(seed)
    heads = (3, 3, 1, 1, 2, 2)
    return CornerMaps(*(torch.randn(batch, c, height, width, generator=g) for c in heads))


def by_search(maps: CornerMaps, row: int, **settings) -> np.ndarray:
    """Every pair of peaks of one image, one after the other; rows of real objects only."""
    corners = []
    for heatmap, embedding, offset in zip(maps[0:2], maps[2:4], maps[4:6], strict=True):
        scores = heatmap[row].double().sigmoid()
        pooled = F.max_pool2d(scores, settings["kernel"], 1, settings["kernel"] // 2)
        cells = (scores == pooled).nonzero().tolist()
        cells = sorted(cells, key=lambda cell: -scores[tuple(cell)])[: settings["top_k"]]
        corners.append(
            [
                (
                    (label, y, x, scores[label, y, x].item(), embedding[row, 0, y, x].item()),
                    (x + offset[row, 0, y, x].item(), y + offset[row, 1, y, x].item()),
                )
                for label, y, x in cells
            ]
        )
    height, width = maps.tl_heatmap.shape[2:]
    found = []
    for (tl_label, tl_y, tl_x, tl_score, tl_tag), tl_point in corners[0]:
        for (br_label, br_y, br_x, br_score, br_tag), br_point in corners[1]:
            at_border = tl_y == 0 or tl_x == 0 or br_y == height - 1 or br_x == width - 1
            if (
                tl_label == br_label
                and abs(tl_tag - br_tag) <= settings["ae_threshold"]
                and br_point[0] >= tl_point[0]
                and br_point[1] >= tl_point[1]
                and not (settings["no_border"] and at_border)
            ):
                score = (tl_score + br_score) / 2
                found.append((*tl_point, *br_point, score, tl_score, br_score, tl_label))
    found.sort(key=lambda detection: -detection[4])
    return np.array(found[: settings["num_dets"]], np.float32).reshape(-1, 8)


def valid(detections: torch.Tensor) -> np.ndarray:
    return detections[detections[:, 4] > -1].numpy()


@pytest.mark.parametrize("number", range(len(META)))
def test_golden(number):
    maps, settings = golden_case(number)
    detections = decode_corners(maps, **settings)
    wanted, counts = GOLDEN[f"case{number}"], GOLDEN[f"case{number}_nvalid"]
    assert detections.shape == wanted.shape and detections.dtype == torch.float32
    for row, count in enumerate(counts):
        found = valid(detections[row])
        assert len(found) == count
        np.testing.assert_allclose(found, wanted[row, :count], rtol=0, atol=1e-5)


@pytest.mark.parametrize("no_border", [False, True])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_slow_search(no_border, kernel):
    settings = {**SMALL, "no_border": no_border, "kernel": kernel, "top_k": 20, "num_dets": 200}
    maps = random_maps()
    detections = decode_corners(maps, **settings)
    for row in range(2):
        wanted = by_search(maps, row, **settings)
        assert len(wanted) > 3
        np.testing.assert_allclose(valid(detections[row]), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("height, width, top_k", [(1, 1, 4), (2, 3, 20), (4, 4, 60), (1, 9, 9)])
def test_fewer_peaks_or_cells_than_corners_wanted(height, width, top_k):
    """Corners that only fill up the K pair with nothing."""
    settings = {**SMALL, "top_k": top_k, "num_dets": 16, "ae_threshold": 10.0}
    maps = random_maps(2, height, width)
    detections = decode_corners(maps, **settings)
    assert detections.shape == (2, 16, 8) and detections.isfinite().all()
    for row in range(2):
        wanted = by_search(maps, row, **settings)
        np.testing.assert_allclose(valid(detections[row]), wanted, rtol=1e-5, atol=1e-5)


def test_best_first_and_rejected_last():
    scores = decode_corners(random_maps(), **{**SMALL, "num_dets": 81})[..., 4]
    assert (scores.diff(dim=1) <= 0).all()
    assert (scores[:, -1] == -1).all()


def test_two_images_give_twice_what_one_gives():
    maps = random_maps(2)
    both = decode_corners(maps, **SMALL)
    for row in range(2):
        one = decode_corners(CornerMaps(*(m[row : row + 1] for m in maps)), **SMALL)
        np.testing.assert_array_equal(valid(one[0]), valid(both[row]))


def test_an_object_is_found():
    maps = CornerMaps(*(torch.zeros(1, c, 16, 16) for c in (2, 2, 1, 1, 2, 2)))
    maps.tl_heatmap.fill_(-9)
    maps.br_heatmap.fill_(-9)
    maps.tl_heatmap[0, 1, 3, 2] = maps.br_heatmap[0, 1, 9, 11] = 4
    maps.tl_offset[0, :, 3, 2] = torch.tensor([0.25, 0.5])
    best = decode_corners(maps, **SMALL)[0, 0]
    score = torch.tensor(4.0).sigmoid().item()
    np.testing.assert_allclose(best, [2.25, 3.5, 11, 9, score, score, score, 1], rtol=1e-6)
    maps.br_embedding[0, 0, 9, 11] = 0.6  # another object's corner
    assert decode_corners(maps, **SMALL)[0, 0, 4] < 0.5


def test_half_precision_maps_give_float32():
    maps = CornerMaps(*(m.bfloat16() for m in random_maps()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        detections = decode_corners(maps, **SMALL)
    assert detections.dtype == torch.float32
    wanted = decode_corners(CornerMaps(*(m.float() for m in maps)), **SMALL)
    assert torch.equal(detections[..., 4], wanted[..., 4])


def test_inputs_untouched_and_layout_without_effect():
    maps = CornerMaps(*(m.requires_grad_() for m in random_maps()))
    before = [m.detach().clone() for m in maps]
    wanted = decode_corners(maps, **SMALL)
    assert not wanted.requires_grad
    assert all(torch.equal(m, copy) for m, copy in zip(maps, before, strict=True))
    last = CornerMaps(*(m.contiguous(memory_format=torch.channels_last) for m in maps))
    assert torch.equal(decode_corners(last, **SMALL), wanted)
