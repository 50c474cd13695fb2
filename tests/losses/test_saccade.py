"""The loss of CornerNet-Saccade: the reference's values and gradients."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from core.losses.corners import corner_losses
from core.losses.saccade import saccade_losses
from core.structures import SaccadeMaps
from core.targets.saccade import SaccadeTargets
from tests.losses.test_corners import GOLDEN, HEADS, META, golden, golden_outputs, golden_targets

CASES = [case for case in META if META[case]["saccade"]]
TERMS = ["heatmap", "attention", "pull", "push", "offset"]


def outputs_of(case):
    return [
        SaccadeMaps(
            corners, [golden(f"{case}_att_{stack}_{level}").requires_grad_() for level in range(3)]
        )
        for stack, corners in enumerate(golden_outputs(case))
    ]


def targets_of(case):
    return SaccadeTargets(
        corners=golden_targets(case),
        tl_valid=golden(f"{case}_gt_tl_valid").bool(),
        br_valid=golden(f"{case}_gt_br_valid").bool(),
        attention=[golden(f"{case}_gt_att_{level}").float() for level in range(3)],
    )


@pytest.mark.parametrize("case", CASES)
def test_golden(case):
    outputs, targets, stacks = outputs_of(case), targets_of(case), META[case]["stacks"]
    terms = saccade_losses(outputs, targets)
    assert list(terms) == TERMS
    parts = {
        "heatmap": GOLDEN[f"{case}_parts_focal"].sum() / stacks,
        "attention": GOLDEN[f"{case}_parts_att"].sum() / stacks**2,
        "pull": 0.1 * GOLDEN[f"{case}_parts_pull"].sum() / stacks,
        "push": 0.1 * GOLDEN[f"{case}_parts_push"].sum() / stacks,
        "offset": GOLDEN[f"{case}_parts_off"].sum() / stacks,
    }
    for name, term in terms.items():
        rel = 1e-3 if name == "push" and 1 in META[case]["objects"] else 1e-5
        assert term.item() == pytest.approx(parts[name], rel=rel), name
    total = sum(terms.values())
    assert total.item() == pytest.approx(float(GOLDEN[f"{case}_total"]), rel=1e-5)

    total.backward()
    for stack, maps in enumerate(outputs):
        named = dict(zip(HEADS, maps.corners, strict=True))
        keys = {f"{head}_{stack}": map_ for head, map_ in named.items()}
        keys |= {f"att_{stack}_{level}": map_ for level, map_ in enumerate(maps.attention)}
        for key, map_ in keys.items():
            wanted = golden(f"{case}_grad_{key}")
            bound = 1e-5 * wanted.abs().max().item()
            torch.testing.assert_close(map_.grad, wanted, rtol=0, atol=bound)


def test_cells_that_are_not_valid_cost_nothing_but_count():
    outputs, targets = outputs_of("saccade"), targets_of("saccade")
    tl_heatmap = outputs[0].corners.tl_heatmap
    saccade_losses(outputs, targets)["heatmap"].backward()
    blank = ~targets.tl_valid
    assert blank.any() and (tl_heatmap.grad[blank] == 0).all()
    assert (tl_heatmap.grad[~blank] != 0).any()


def test_corner_terms_are_those_of_corners_alone():
    outputs, targets = outputs_of("saccade"), targets_of("saccade")
    every = torch.ones_like(targets.tl_valid)
    targets = replace(targets, tl_valid=every, br_valid=every)
    alone = corner_losses([maps.corners for maps in outputs], targets.corners, push_weight=0.3)
    terms = saccade_losses(outputs, targets, corners=partial(corner_losses, push_weight=0.3))
    for name, term in alone.items():
        assert terms[name].item() == term.item()


def test_one_stack_and_no_object():
    outputs, targets = outputs_of("saccade")[:1], targets_of("saccade")
    empty = replace(targets, attention=[torch.zeros_like(a) for a in targets.attention])
    terms = saccade_losses(outputs, empty)
    sum(terms.values()).backward()
    assert all(np.isfinite(term.item()) for term in terms.values())
    assert all(map_.grad.isfinite().all() for map_ in outputs[0].attention)
