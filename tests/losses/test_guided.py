"""The loss of CentripetalNet: values by a loop, gradients, empty images."""

import pytest
import torch

from core.losses.corners import offset_loss
from core.losses.focal import focal_loss
from core.losses.guided import guided_losses
from core.structures import GuidedMaps
from core.targets.centripetal import guiding_targets
from tests.losses.test_centripetal import make_targets
from tests.targets.test_centripetal import OPTIONS

CLASSES = OPTIONS["num_classes"]


def random_maps(seed=0):
    """Maps with errors below and above 1."""
    g = torch.Generator().manual_seed(seed)
    maps = [torch.randn(3, channels, 12, 20, generator=g) for channels in (CLASSES,) * 2 + (2,) * 6]
    maps[6:] = [3 * map_ for map_ in maps[6:]]
    return GuidedMaps(*(map_.requires_grad_() for map_ in maps))


def smooth_l1_by_loop(map_, target, index, mask):
    """Sum over cells and axes, over the number of cells; quadratic below 1."""
    total = 0.0
    for row, number in mask.nonzero().tolist():
        found = map_[row].flatten(1)[:, index[row, number]].tolist()
        for value, wanted in zip(found, target[row, number].tolist(), strict=True):
            error = abs(value - wanted)
            total += error - 0.5 if error > 1 else 0.5 * error**2
    return total / (mask.sum().item() + 1e-4)


@pytest.mark.parametrize("window", [1, 3])
def test_shifts_equal_a_loop(window):
    targets, stacks = make_targets(window=window), [random_maps(seed) for seed in (0, 1)]
    terms = guided_losses(stacks, targets)
    assert list(terms) == ["heatmap", "shift", "offset", "guiding"]
    shift_cost, guiding_cost = 0.0, 0.0
    for maps in stacks:
        for corner, guiding in zip(("tl", "br"), guiding_targets(targets), strict=True):
            cells = [getattr(targets, f"{corner}_{key}") for key in ("index", "mask")]
            found = getattr(maps, f"{corner}_shift"), getattr(maps, f"{corner}_guiding")
            shift_cost += smooth_l1_by_loop(found[0], targets.shift, *cells) / 2
            guiding_cost += smooth_l1_by_loop(found[1], guiding, *cells) / 2
    assert terms["shift"].item() == pytest.approx(shift_cost, rel=1e-5)
    assert terms["guiding"].item() == pytest.approx(0.05 * guiding_cost, rel=1e-5)
    heavier = guided_losses(stacks, targets, guiding_weight=0.2)["guiding"]
    assert heavier.item() == pytest.approx(0.2 * guiding_cost, rel=1e-5)


def test_heatmaps_and_offsets_cost_what_they_cost_in_cornernet():
    targets, maps = make_targets(window=1), random_maps()
    terms = guided_losses([maps], targets)
    heatmap = focal_loss(maps.tl_heatmap, targets.tl_heatmap)
    heatmap = heatmap + focal_loss(maps.br_heatmap, targets.br_heatmap)
    assert terms["heatmap"].item() == pytest.approx(heatmap.item())
    offset = offset_loss(maps.tl_offset, targets.tl_offset, targets.tl_index, targets.tl_mask)
    offset = offset + offset_loss(
        maps.br_offset, targets.br_offset, targets.br_index, targets.br_mask
    )
    assert terms["offset"].item() == pytest.approx(offset.item())


def test_guiding_shifts_get_gradients_at_their_cells():
    targets, maps = make_targets(window=1), random_maps()
    guided_losses([maps], targets)["guiding"].backward()
    for corner in ("tl", "br"):
        cells = getattr(targets, f"{corner}_index")[getattr(targets, f"{corner}_mask")]
        touched = getattr(maps, f"{corner}_guiding").grad.abs().sum((0, 1)).flatten().nonzero()
        assert set(touched.flatten().tolist()) == set(cells.tolist())
    assert not maps.tl_shift.grad.any() and not maps.br_heatmap.grad.any()


def test_images_without_objects_cost_only_their_heatmaps():
    maps = random_maps()
    terms = guided_losses([maps], make_targets(counts=(0, 0, 0)))
    assert terms["guiding"] == terms["shift"] == terms["offset"] == 0 and terms["heatmap"] > 0
    sum(terms.values()).backward()
    for map_ in maps[2:]:
        assert not map_.grad.any()
    assert maps.tl_heatmap.grad.isfinite().all()
