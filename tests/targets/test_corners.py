"""Heatmaps, offsets, indices and masks of a batch."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from core.data.color import NORMALIZE
from core.structures import Sample, collate
from core.targets import gaussian
from core.targets.corners import CornerTargets, corner_targets

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "targets_cornernet.npz")
META = json.loads(str(GOLDEN["meta"]))
OPTIONS = {
    "num_classes": 5,
    "output_size": (16, 24),
    "gaussian_bump": True,
    "gaussian_iou": 0.3,
    "gaussian_radius": -1,
}


def make_batch(objects, height=64, width=96):
    """A batch of black images with the boxes (x0, y0, x1, y1, label) of each image."""
    image = np.zeros((3, height, width), np.uint8)
    rows = [np.array(boxes, np.float32).reshape(-1, 5) for boxes in objects]
    samples = [Sample(image, r[:, :4], r[:, 4].astype(np.int64), NORMALIZE) for r in rows]
    return collate(samples, list(range(len(samples))))


def reference_boxes(number, input_size):
    """Boxes of a golden image as the sampler gives them, with labels instead of categories."""
    (height, width), boxes = GOLDEN["sizes"][number], GOLDEN[f"boxes_{number}"].copy()
    boxes[:, 0:4:2] = (boxes[:, 0:4:2] * (input_size[1] / width)).clip(0, input_size[1] - 1)
    boxes[:, 1:4:2] = (boxes[:, 1:4:2] * (input_size[0] / height)).clip(0, input_size[0] - 1)
    boxes[:, 4] -= 1
    return boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]


def random_boxes(count, seed=0, height=64, width=96):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, [width - 30, height - 30], (count, 2))
    high = low + rng.uniform(1, 29, (count, 2))
    return np.concatenate([low, high, rng.integers(0, 5, (count, 1))], 1)


def test_sizes_are_differences_in_float32(monkeypatch):
    """As in the reference, which then rounds them up: in float64 this box is wider than 8."""
    sizes = []

    def peak_radius(heights, widths, _):
        sizes.extend((heights, widths))
        return torch.zeros_like(heights, dtype=torch.int64)

    monkeypatch.setattr(gaussian, "peak_radius", peak_radius)
    corner_targets(make_batch([[(0.1, 0.1, 8.1, 8.1, 0)]]), **OPTIONS)
    assert [size[0, 0].item() for size in sizes[:2]] == [2, 2]
    assert all(size.dtype == torch.float64 for size in sizes)


@pytest.mark.parametrize("variant", META)
def test_targets_equal_the_reference(variant):
    meta = META[variant]
    objects = [reference_boxes(number, meta["input_size"]) for number in range(4)]
    batch = make_batch(objects, *meta["input_size"])
    targets = corner_targets(
        batch,
        num_classes=80,
        output_size=tuple(meta["output_size"]),
        gaussian_bump=meta["gaussian_bump"],
        gaussian_iou=meta["gaussian_iou"],
        gaussian_radius=meta["gaussian_radius"],
    )
    objects = batch.labels.shape[1]
    expected_mask = GOLDEN[f"{variant}_tag_mask"].astype(bool)
    assert not expected_mask[:, objects:].any()
    np.testing.assert_array_equal(targets.mask, expected_mask[:, :objects])
    for corner in ("tl", "br"):
        heatmap = getattr(targets, f"{corner}_heatmap").flatten()
        index = GOLDEN[f"{variant}_{corner}_heat_idx"]
        np.testing.assert_array_equal(heatmap.nonzero()[:, 0], index)
        np.testing.assert_allclose(
            heatmap[index], GOLDEN[f"{variant}_{corner}_heat_val"], atol=1e-6
        )
        offset = GOLDEN[f"{variant}_{corner}_regr"][:, :objects]
        np.testing.assert_allclose(getattr(targets, f"{corner}_offset"), offset, atol=2e-5)
        tags = GOLDEN[f"{variant}_{corner}_tag"][:, :objects]
        np.testing.assert_array_equal(getattr(targets, f"{corner}_index"), tags)


def test_a_box_gives_its_two_corners():
    targets = corner_targets(
        make_batch([[[9, 17, 50, 43, 3]]]), **OPTIONS | {"gaussian_bump": False}
    )
    assert targets.tl_heatmap.nonzero().tolist() == [[0, 3, 4, 2]]
    assert targets.br_heatmap.nonzero().tolist() == [[0, 3, 10, 12]]
    assert targets.tl_index.tolist() == [[4 * 24 + 2, 0]]
    assert targets.br_index.tolist() == [[10 * 24 + 12, 0]]
    assert targets.tl_offset.tolist() == [[[0.25, 0.25], [0, 0]]]
    assert targets.br_offset.tolist() == [[[0.5, 0.75], [0, 0]]]


def test_a_batch_of_two_equals_two_batches_of_one():
    objects = [random_boxes(7, 1), random_boxes(12, 2)]
    both = corner_targets(make_batch(objects), **OPTIONS)
    for row, boxes in enumerate(objects):
        alone = corner_targets(make_batch([boxes]), **OPTIONS)
        for name, value in vars(alone).items():
            expected = getattr(both, name)[row]
            actual = value[0]
            if "heatmap" not in name:
                assert not expected[len(boxes) :].any()
                expected = expected[: len(boxes)]
            assert torch.equal(actual, expected), name


def test_values_in_padded_rows_do_not_matter():
    batch = make_batch([random_boxes(3, 1), random_boxes(9, 2)])
    padded = batch.boxes.clone()
    padded[0, 3:] = torch.tensor([3.0, 4, 90, 60])
    expected, targets = (
        corner_targets(b, **OPTIONS) for b in (batch, replace(batch, boxes=padded))
    )
    for name, value in vars(targets).items():
        assert torch.equal(value, getattr(expected, name)), name


@pytest.mark.parametrize("bump", [True, False])
def test_no_object_in_the_whole_batch(bump):
    targets = corner_targets(make_batch([[], []]), **OPTIONS | {"gaussian_bump": bump})
    assert isinstance(targets, CornerTargets)
    assert targets.tl_heatmap.shape == (2, 5, 16, 24) and targets.tl_index.shape == (2, 2)
    assert not any(value.any() for value in vars(targets).values())


def test_three_hundred_objects():
    boxes = random_boxes(300)
    targets = corner_targets(make_batch([boxes]), **OPTIONS)
    assert targets.mask.sum() == 300
    peaks = {tuple(row[1:]) for row in (targets.tl_heatmap == 1).nonzero().tolist()}
    assert peaks == {(int(b[4]), int(b[1] / 4), int(b[0] / 4)) for b in boxes}


def test_corners_in_the_last_pixel_stay_inside():
    targets = corner_targets(make_batch([[[95, 63, 95, 63, 0], [0, 0, 95, 63, 4]]]), **OPTIONS)
    assert targets.br_index.tolist() == [[16 * 24 - 1] * 2]
    assert targets.br_heatmap[0, :, -1, -1].tolist() == [1, 0, 0, 0, 1]


def test_cells_are_cut_off_from_products_in_double_precision():
    """Close to the edge of a cell, a product in single precision falls into another one."""
    x = (np.arange(1, 160) * 639 / 160).astype(np.float32)
    batch = make_batch([np.stack([x, x, x, x, 0 * x], 1)], 639, 639)
    targets = corner_targets(batch, **OPTIONS | {"output_size": (160, 160)})
    cells = [int(float(value) * (160 / 639)) for value in x]
    assert targets.tl_index[0].tolist() == [cell * 161 for cell in cells]


def test_batch_is_untouched():
    batch = make_batch([random_boxes(5)])
    copies = {name: value.clone() for name, value in vars(batch).items() if value is not None}
    corner_targets(batch, **OPTIONS)
    assert all(torch.equal(getattr(batch, name), value) for name, value in copies.items())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_targets_on_a_gpu_equal_those_on_the_cpu():
    batch = make_batch([random_boxes(40, seed) for seed in range(6)])
    expected = corner_targets(batch, **OPTIONS)
    targets = corner_targets(batch.to("cuda"), **OPTIONS)
    for name, value in vars(targets).items():
        torch.testing.assert_close(value.cpu(), getattr(expected, name), atol=1e-6, rtol=0)
