"""Boxes about peaks: the golden ones, and what must hold for any maps."""

import numpy as np
import pytest
import torch

from core.decode.centers import (
    average_mirrored,
    decode_centers,
    decode_images,
    read_centers,
)
from core.structures import CenterMaps, SearchedMaps
from cpools_ext.corners import gather_cells
from tests.support.centers_golden import DATA, meta, tensor

CASES = meta("dec_meta")


def random_maps(batch=2, classes=3, height=12, width=17, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def maps(channels):
        return torch.rand(batch, channels, height, width, generator=generator)

    return CenterMaps(maps(classes), maps(2) * 9, maps(2))


@pytest.mark.parametrize("number", range(len(CASES)))
def test_golden(number):
    case = CASES[number]
    heatmap, size, offset = (tensor(f"dec_m{case['maps']}_{key}") for key in ("hm", "wh", "reg"))
    if not case["reg"]:
        offset = torch.full_like(offset, 0.5)
    found = decode_centers(CenterMaps(heatmap, size, offset), top_k=case["K"], kernel=3).numpy()
    expected = DATA[f"dec_case{number}"]
    assert found.shape == expected.shape
    for rows, wanted, valid in zip(found, expected, case["nvalid"], strict=True):
        np.testing.assert_allclose(rows[:valid, :4], wanted[:valid, :4], atol=1e-4)
        np.testing.assert_allclose(rows[:valid, 4], wanted[:valid, 4], atol=1e-5)
        np.testing.assert_array_equal(rows[:valid, 5], wanted[:valid, 5])
        assert (rows[valid:, 4] == 0).all()


@pytest.mark.parametrize("number", [0, 1])
def test_golden_mirror(number):
    heatmap, size, offset = (tensor(f"flip_case{number}_{key}") for key in ("hm", "wh", "reg"))
    maps = CenterMaps(heatmap.sigmoid(), size, offset)
    kept = [map_.clone() for map_ in maps]
    averaged = average_mirrored(maps)
    expected = [tensor(f"flip_case{number}_avg_{key}") for key in ("hm", "wh")]
    torch.testing.assert_close(list(averaged[:2]), expected)
    assert torch.equal(averaged.offset, offset[:1])
    assert all(torch.equal(map_, clone) for map_, clone in zip(maps, kept, strict=True))
    found = decode_centers(averaged, top_k=int(DATA[f"flip_case{number}_K"]), kernel=3).numpy()
    dets = DATA[f"flip_case{number}_dets"]
    np.testing.assert_allclose(found, dets, atol=1e-4)
    np.testing.assert_allclose(found[..., 4], dets[..., 4], atol=1e-5)


def test_one_peak_by_hand():
    maps = CenterMaps(torch.zeros(1, 3, 8, 9), torch.zeros(1, 2, 8, 9), torch.zeros(1, 2, 8, 9))
    maps.heatmap[0, 2, 5, 6] = 0.75
    maps.size[0, :, 5, 6] = torch.tensor([4.0, 2.0])
    maps.offset[0, :, 5, 6] = torch.tensor([0.25, 0.5])
    found = decode_centers(maps, top_k=3, kernel=3)
    assert found[0, 0].tolist() == [4.25, 4.5, 8.25, 6.5, 0.75, 2]
    assert found[0, 1:, 4].tolist() == [0, 0]


def test_a_batch_gives_what_its_images_give():
    maps = random_maps()
    together = decode_centers(maps, top_k=20, kernel=3)
    for row in range(2):
        alone = decode_centers(CenterMaps(*(m[row : row + 1] for m in maps)), top_k=20, kernel=3)
        assert torch.equal(together[row], alone[0])


def test_more_asked_for_than_there_are():
    maps = CenterMaps(torch.rand(1, 1, 2, 2), torch.rand(1, 2, 2, 2), torch.rand(1, 2, 2, 2))
    found = decode_centers(maps, top_k=10, kernel=3)
    assert found.shape == (1, 10, 6)
    assert found[0, 0, 4] == maps.heatmap.max() and not found[0, 1:, 4].any()


def test_a_larger_window_leaves_fewer():
    maps = random_maps()
    counts = [
        int((decode_centers(maps, top_k=200, kernel=kernel)[..., 4] > 0).sum())
        for kernel in (1, 3, 7)
    ]
    assert counts[0] == 400 and counts[0] > counts[1] > counts[2]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("top_k", [5, 700])
def test_what_is_read_at_cells_is_what_whole_maps_have(mirrored, top_k):
    """700 are more than there are peaks."""
    maps = random_maps()
    maps = maps._replace(heatmap=maps.heatmap * 8 - 4)
    settings = {"mirrored": mirrored, "top_k": top_k, "kernel": 3}
    (cells,), peaks = read_centers(maps.heatmap, **settings)
    assert cells.shape == (2, top_k)
    read = [gather_cells(map_, cells) for map_ in (maps.size, maps.offset)]
    expected = decode_images([maps], **settings)
    assert expected.shape == (1 if mirrored else 2, top_k, 6)
    maps = CenterMaps(maps.heatmap, *read)
    for given in (maps, SearchedMaps(maps, peaks)):
        torch.testing.assert_close(decode_images([given], **settings), expected)


def test_cells_of_the_mirror_image_show_the_same():
    """The peak of the mean lies where the image alone has a lower one."""
    logits = torch.full((2, 1, 4, 6), -9.0)
    logits[0, 0, 1, 0], logits[0, 0, 2, 5], logits[1, 0, 2, 0] = 1.0, 0.5, 0.9
    settings = {"mirrored": True, "top_k": 1, "kernel": 3}
    assert read_centers(logits, **settings).cells[0].tolist() == [[2 * 6 + 5], [2 * 6 + 0]]
