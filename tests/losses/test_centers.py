"""The loss of CenterNet: the reference's values and gradients, and what padding may not do."""

import numpy as np
import pytest
import torch

from core.losses.centers import center_losses, l1_loss
from core.structures import CenterMaps
from core.targets.centers import CenterTargets
from tests.support.centers_golden import DATA, WALKTHROUGH, meta, sparse_heatmap, tensor

CASES = {case["name"]: case for case in meta("loss_meta")}
HEADS = ("hm", "wh", "reg")
NAMES = {"heatmap": "hm_loss", "size": "wh_loss", "offset": "off_loss"}


def golden_case(case: str, slots: int | None = None):
    """Outputs of every stack, and the targets in the first ``slots`` slots."""
    outputs = [
        CenterMaps(*(tensor(f"loss_{case}_{head}_{stack}").requires_grad_() for head in HEADS))
        for stack in range(CASES[case]["stacks"])
    ]
    size, offset, index, mask = (
        tensor(f"loss_{case}_gt_{key}")[:, :slots] for key in ("wh", "reg", "ind", "mask")
    )
    heatmap = sparse_heatmap(f"loss_{case}_gt_hm", (3, 5, 16, 16))
    return outputs, CenterTargets(heatmap, index, size, offset, mask.bool())


@pytest.mark.parametrize("case", CASES)
def test_golden(case):
    outputs, targets = golden_case(case)
    terms = center_losses(outputs, targets)
    assert list(terms) == list(NAMES)
    for name, key in NAMES.items():
        expected = float(DATA[f"loss_{case}_{key}"]) * (0.1 if name == "size" else 1)
        assert terms[name].item() == pytest.approx(expected, rel=1e-5)
        assert terms[name].dtype == torch.float32
    total = sum(terms.values())
    assert total.item() == pytest.approx(float(DATA[f"loss_{case}_total"]), rel=1e-5)
    total.backward()
    for stack, maps in enumerate(outputs):
        for head, map_ in zip(HEADS, maps, strict=True):
            expected = tensor(f"loss_{case}_grad_{head}_{stack}")
            tolerance = 1e-5 * expected.abs().max().item()
            torch.testing.assert_close(map_.grad, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", ["mixed", "one_stack", "none"])
def test_padding_costs_nothing(case):
    outputs, all_slots = golden_case(case)
    targets = golden_case(case, 48)[1]
    assert targets.mask.sum() == all_slots.mask.sum()
    expected = center_losses(outputs, all_slots)
    garbage = CenterTargets(
        targets.heatmap,
        targets.index,
        torch.where(targets.mask[..., None], targets.size, torch.nan),
        torch.where(targets.mask[..., None], targets.offset, torch.inf),
        targets.mask,
    )
    for other in (targets, garbage):
        terms = center_losses(outputs, other)
        for name, value in terms.items():
            torch.testing.assert_close(value, expected[name])


def test_an_image_without_objects_beside_one_with():
    outputs, targets = golden_case("mixed")  # its second image is empty
    keep = [0, 2]
    kept = CenterTargets(**{name: value[keep] for name, value in vars(targets).items()})
    both = center_losses(outputs, targets)
    without = center_losses([CenterMaps(*(m[keep] for m in maps)) for maps in outputs], kept)
    torch.testing.assert_close(both["size"], without["size"])
    torch.testing.assert_close(both["offset"], without["offset"])
    assert both["heatmap"] > without["heatmap"]


def test_one_object_by_hand():
    maps, target = torch.zeros(1, 2, 4, 5), torch.tensor([[[3.0, -1.0]]])
    maps[0, :, 2, 3] = torch.tensor([1.0, 4.0])
    loss = l1_loss(maps, target, torch.tensor([[2 * 5 + 3]]), torch.tensor([[True]]))
    assert loss.item() == pytest.approx((2 + 5) / (2 + 1e-4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_outputs(dtype):
    outputs, targets = golden_case("many")
    half = [CenterMaps(*(m.detach().to(dtype) for m in maps)) for maps in outputs]
    back = [CenterMaps(*(m.float() for m in maps)) for maps in half]
    with torch.autocast("cpu", torch.bfloat16):
        terms = center_losses(half, targets)
    for name, value in center_losses(back, targets).items():
        assert terms[name].dtype == torch.float32
        torch.testing.assert_close(terms[name], value)


def test_inputs_are_left_as_they_are():
    outputs, targets = golden_case("mixed")
    kept = [[m.detach().clone() for m in maps] for maps in outputs]
    before = {name: value.clone() for name, value in vars(targets).items()}
    center_losses(outputs, targets)
    for maps, clones in zip(outputs, kept, strict=True):
        assert all(torch.equal(m, clone) for m, clone in zip(maps, clones, strict=True))
    assert all(torch.equal(vars(targets)[name], value) for name, value in before.items())


def test_walkthrough():
    """The worked example's sums, whose focal term is neither clamped nor divided."""
    heatmap = torch.zeros(2, 4, 8, 8)
    for place in WALKTHROUGH["ground_truth_nonzero"]["value"]:
        kernel = torch.tensor(WALKTHROUGH["gaussian2D_radius2_sigma1_full"]["value"])
        heatmap[place["image"], place["class"], 1:6, 1:6] = kernel
    assert (heatmap == 1).sum() == 2
    targets = CenterTargets(
        heatmap,
        index=torch.full((2, 1), 3 * 8 + 3),
        size=torch.zeros(2, 1, 2),
        offset=torch.full((2, 1, 2), 0.5),
        mask=torch.ones(2, 1, dtype=torch.bool),
    )
    zeros = CenterMaps(torch.zeros(2, 4, 8, 8), torch.zeros(2, 2, 8, 8), torch.zeros(2, 2, 8, 8))
    terms = center_losses([zeros], targets)
    expected = WALKTHROUGH["focal"]["sum_for_prediction_0.5"]["value"]
    assert terms["heatmap"].item() * 2 == pytest.approx(expected, rel=1e-5)
    summed = WALKTHROUGH["l1"]["offset_sum_for_prediction_0"]["value"]
    weights = WALKTHROUGH["l1"]["weights_sum"]["value"]
    assert terms["offset"].item() == pytest.approx(summed / (weights + 1e-4))
    np.testing.assert_allclose(terms["size"].item(), 0)
