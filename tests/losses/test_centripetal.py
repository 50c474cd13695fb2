"""The loss of corners that point to their centre: values by a loop, gradients, empty images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.ops import generalized_box_iou_loss

from core.layers.distribution import distribution_loss
from core.losses.centripetal import (
    box_loss,
    centripetal_losses,
    generalized_iou_loss,
    shift_loss,
)
from core.losses.corners import offset_loss
from core.losses.focal import focal_loss
from core.structures import CentripetalMaps
from core.targets.centripetal import centripetal_targets
from cpools_ext.corners import gather_cells
from tests.support.offset_bins import bins_of, offsets_of
from tests.targets.test_centripetal import OPTIONS, make_batch, random_objects

HEADS = (3, 3, 2, 2, 18, 18, 3)  # channels of the fields of CentripetalMaps


def make_targets(counts=(5, 0, 3), window=3):
    rng = np.random.default_rng(0)
    batch = make_batch([random_objects(rng, count) for count in counts])
    return centripetal_targets(batch, window=window, **OPTIONS)


def random_maps(batch=3, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    maps = [torch.randn(batch, channels, 12, 20, generator=g, dtype=dtype) for channels in HEADS]
    return CentripetalMaps(*(tensor.requires_grad_() for tensor in maps))


def by_loop(maps, targets):
    """The shift term of one stack, before its weight."""
    total = 0.0
    for corner in ("tl", "br"):
        values, mask = [], getattr(targets, f"{corner}_mask")
        for row, number in mask.nonzero().tolist():
            cell = getattr(targets, f"{corner}_index")[row, number].item()
            for axis in range(2):
                found = getattr(maps, f"{corner}_shift")[row, axis].flatten()[cell].item()
                error = abs(found - targets.shift[row, number, axis].item())
                values.append(error - 0.05 if error > 0.1 else 5 * error * error)
        total += sum(values) / (mask.sum().item() + 1e-4)
    return total


def test_equals_a_loop():
    targets, stacks = make_targets(), [random_maps(seed=0), random_maps(seed=1)]
    near = stacks[1]._replace(tl_shift=stacks[1].tl_shift.detach() * 0.03)  # quadratic, too
    stacks[1] = near
    terms = centripetal_losses(stacks, targets)
    assert list(terms) == ["heatmap", "shift", "offset", "box", "center"]
    wanted = np.mean([by_loop(maps, targets) for maps in stacks])
    assert terms["shift"].item() == pytest.approx(0.5 * wanted, rel=1e-5)
    doubled = centripetal_losses(stacks, targets, shift_weight=1.0)
    assert doubled["shift"].item() == pytest.approx(wanted, rel=1e-5)


def test_centres_cost_what_a_loop_says():
    targets, maps = make_targets(), random_maps()
    inside, counted = targets.centers.inside, targets.centers.counted
    total = 0.0
    for row, label, y, x in np.ndindex(*inside.shape):
        if counted[row, 0, y, x]:
            found = maps.center_heatmap[row, label, y, x].sigmoid().item()
            right, part = (found, 0.25) if inside[row, label, y, x] else (1 - found, 0.75)
            total -= part * (1 - right) ** 2 * np.log(right)
    term = centripetal_losses([maps], targets)["center"]
    assert term.item() == pytest.approx(total / inside.sum().item(), rel=1e-5)
    term.backward()
    counts = counted.expand_as(inside)
    assert (maps.center_heatmap.grad[~counts] == 0).all()
    assert (maps.center_heatmap.grad[counts] != 0).all()


def test_heatmaps_and_mean_offsets_cost_what_they_cost_in_cornernet():
    targets, maps = make_targets(), random_maps()
    terms = centripetal_losses([maps], targets)
    heatmap = focal_loss(maps.tl_heatmap, targets.tl_heatmap)
    heatmap += focal_loss(maps.br_heatmap, targets.br_heatmap)
    assert terms["heatmap"].item() == pytest.approx(heatmap.item())
    offset = 0.0
    for corner in ("tl", "br"):
        bins = getattr(maps, f"{corner}_offset_bins")
        target, index, mask = (
            getattr(targets, f"{corner}_{part}") for part in ("offset", "index", "mask")
        )
        offset += offset_loss(offsets_of(bins), target, index, mask).item()
        spread = distribution_loss(gather_cells(bins, index), target, mask).sum().item()
        offset += 0.25 * spread / mask.sum().item()
    assert terms["offset"].item() == pytest.approx(offset, rel=1e-4)


def test_cells_alone_cost_what_whole_maps_cost():
    targets, maps = make_targets(), random_maps()
    taken = {}
    for corner in ("tl", "br"):
        for head in ("shift", "offset_bins"):
            cells = gather_cells(
                getattr(maps, f"{corner}_{head}"), getattr(targets, f"{corner}_index")
            )
            taken[f"{corner}_{head}"] = cells
    whole, cells = (centripetal_losses([m], targets) for m in (maps, maps._replace(**taken)))
    for name, term in whole.items():
        assert cells[name].item() == pytest.approx(term.item(), rel=1e-6)


def test_gradients():
    targets = make_targets()
    maps = random_maps(dtype=torch.float64)
    shift = maps.tl_shift
    doubles = replace(targets, shift=targets.shift.double())

    def cost(values):
        return shift_loss(values, doubles.shift, doubles.tl_index, doubles.tl_mask).double()

    (gradient,) = torch.autograd.grad(cost(shift), shift)
    touched = gradient.abs().sum(1).flatten(1).nonzero()
    trained = {(row, doubles.tl_index[row, n].item()) for row, n in doubles.tl_mask.nonzero()}
    assert {(row.item(), cell.item()) for row, cell in touched} == {
        (int(row), cell) for row, cell in trained
    }
    direction = torch.randn(shift.shape, generator=torch.Generator().manual_seed(1))
    direction = direction.double() * (gradient != 0)
    step = 1e-3
    change = (cost(shift + step * direction) - cost(shift - step * direction)) / (2 * step)
    assert change.item() == pytest.approx((gradient * direction).sum().item(), rel=2e-2)


def test_images_without_objects_cost_only_their_heatmaps():
    maps = random_maps()
    terms = centripetal_losses([maps], make_targets(counts=(0, 0, 0)))
    assert terms["shift"] == terms["offset"] == terms["box"] == 0 and terms["heatmap"] > 0
    sum(terms.values()).backward()
    assert not maps.tl_shift.grad.any() and not maps.br_offset_bins.grad.any()
    assert torch.isfinite(maps.tl_heatmap.grad).all()


def test_cells_that_are_not_valid_cost_nothing():
    targets, maps = make_targets(), random_maps()
    nowhere = torch.zeros_like(targets.tl_heatmap, dtype=torch.bool)
    terms = centripetal_losses([maps], targets, tl_valid=nowhere, br_valid=nowhere)
    assert terms["heatmap"] == 0 and terms["shift"] > 0


def giou(one, other):
    """GIoU of two boxes (x0, y0, x1, y1)."""
    sides = [min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in range(2)]
    shared = max(sides[0], 0) * max(sides[1], 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    hull = np.prod([max(one[i + 2], other[i + 2]) - min(one[i], other[i]) for i in range(2)])
    union = sum(areas) - shared
    return shared / union - (hull - union) / hull


def test_boxes_equal_a_loop():
    targets, maps = make_targets(), random_maps()
    costs = []
    both = targets.tl_mask & targets.br_mask
    assert 0 < both.sum() < targets.tl_mask.sum()  # windows are cut at the edges
    for row, number in both.nonzero().tolist():
        found, wanted = [], []
        for corner in ("tl", "br"):
            cell = getattr(targets, f"{corner}_index")[row, number].item()
            point = np.array([cell % 20, cell // 20])
            found += (
                point
                + offsets_of(getattr(maps, f"{corner}_offset_bins"))[row]
                .flatten(1)[:, cell]
                .tolist()
            ).tolist()
            wanted += (point + getattr(targets, f"{corner}_offset")[row, number].tolist()).tolist()
        found[2:] = [max(found[2 + i], found[i] + 1e-3) for i in range(2)]
        costs.append(1 - giou(found, wanted))
    assert box_loss(maps, targets).item() == pytest.approx(np.mean(costs), rel=1e-3)


def test_perfect_boxes_cost_nothing_and_padding_has_no_gradient():
    targets, maps = make_targets(), random_maps()
    bins = {
        f"{corner}_offset_bins": getattr(targets, f"{corner}_offset") for corner in ("tl", "br")
    }
    perfect = maps._replace(**{key: bins_of(value).requires_grad_() for key, value in bins.items()})
    cost = box_loss(perfect, targets)
    assert cost.item() == pytest.approx(0, abs=1e-4)
    (gradient,) = torch.autograd.grad(cost, perfect.tl_offset_bins)
    assert gradient.isfinite().all()
    assert not gradient[~(targets.tl_mask & targets.br_mask)].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_overlap_costs_what_it_costs_in_torchvision(dtype):
    """For random boxes, and one beside each kind of place."""
    g = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 500, 2, 2, generator=g, dtype=dtype).mul(10).sort(2).values
    boxes, others = corners.flatten(2)
    box = [1.0, 2.0, 4.0, 3.0]
    places = {
        "equal": box,
        "inside": [2, 2.25, 3, 2.5],
        "right": [5, 2, 6, 3],
        "diagonal": [5, 4, 6, 7],
        "touching a side": [4, 2, 6, 3],
        "touching a corner": [4, 3, 6, 7],
        "unit": [0, 0, 1, 1],
    }
    boxes = torch.cat((boxes, torch.tensor([box] * len(places), dtype=dtype)))
    others = torch.cat((others, torch.tensor(list(places.values()), dtype=dtype)))
    costs, gradients = [], []
    for loss in (generalized_iou_loss, generalized_box_iou_loss):
        pair = [tensor.clone().requires_grad_() for tensor in (boxes, others)]
        costs.append(loss(*pair))
        gradients.append(torch.autograd.grad(costs[-1].square().sum(), pair))
    assert (costs[1][:500] > 1).any() and (costs[1][:500] < 0.9).any()
    torch.testing.assert_close(*costs)
    torch.testing.assert_close(*gradients)
