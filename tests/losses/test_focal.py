"""Focal loss: the reference's values and gradients, its edge cases, and what it leaves alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from core.losses.focal import focal_loss, fusible_focal_loss

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "losses.npz")
META = json.loads(str(GOLDEN["meta"]))
SACCADE = [case for case in META if META[case]["saccade"]]


def golden(name: str) -> torch.Tensor:
    return torch.from_numpy(GOLDEN[name])


def by_autograd(logits, target, valid=None):
    """The formula as it is written in the golden README."""
    p = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    positive = target == 1
    cost = torch.where(positive, p.log() * (1 - p) ** 2, (1 - p).log() * p**2 * (1 - target) ** 4)
    if valid is not None:
        cost = cost * valid
    return -cost.sum() / max(1, int(positive.sum()))


def random_case(seed: int, positives: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(2, 3, 8, 9, generator=generator)
    target = torch.rand(2, 3, 8, 9, generator=generator) * 0.9
    target.view(-1)[:positives] = 1
    valid = (torch.rand(2, 3, 8, 9, generator=generator) > 0.3).to(torch.uint8)
    return logits, target, valid


@pytest.mark.parametrize("case", META)
def test_golden_heatmaps(case):
    stacks = META[case]["stacks"]
    for side, corner in enumerate(("tl", "br")):
        target = golden(f"{case}_gt_{corner}_heat")
        valid = golden(f"{case}_gt_{corner}_valid") if case in SACCADE else None
        values = []
        for stack in range(stacks):
            logits = golden(f"{case}_{corner}_heat_{stack}").requires_grad_()
            loss = focal_loss(logits, target, valid)
            (loss / stacks).backward()
            values.append(loss.item())
            wanted = golden(f"{case}_grad_{corner}_heat_{stack}")
            bound = 1e-5 * wanted.abs().max().item()
            torch.testing.assert_close(logits.grad, wanted, rtol=0, atol=bound)
        assert sum(values) == pytest.approx(GOLDEN[f"{case}_parts_focal"][side], rel=1e-5)


@pytest.mark.parametrize("case", SACCADE)
def test_golden_attention(case):
    stacks = META[case]["stacks"]
    for level, wanted_value in enumerate(GOLDEN[f"{case}_parts_att"]):
        values = []
        for stack in range(stacks):
            logits = golden(f"{case}_att_{stack}_{level}").requires_grad_()
            loss = focal_loss(logits, golden(f"{case}_gt_att_{level}").view_as(logits))
            (loss / stacks**2).backward()  # the reference averages attention over stacks twice
            values.append(loss.item())
            wanted = golden(f"{case}_grad_att_{stack}_{level}")
            bound = 1e-5 * wanted.abs().max().item()
            torch.testing.assert_close(logits.grad, wanted, rtol=0, atol=bound)
        assert sum(values) == pytest.approx(wanted_value, rel=1e-5)


@pytest.mark.parametrize("positives", [0, 1, 20])
@pytest.mark.parametrize("masked", [False, True])
def test_gradient_is_that_of_the_formula(positives, masked):
    logits, target, valid = random_case(positives, positives)
    mask = valid if masked else None
    ours, theirs = logits.clone().requires_grad_(), logits.double().requires_grad_()
    loss = focal_loss(ours, target, mask)
    wanted = by_autograd(theirs, target.double(), mask)
    (3 * loss).backward()
    (3 * wanted).backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_the_form_for_a_compiler_is_the_same(dtype, masked):
    """Some of these probabilities are clamped, also just at the limit."""
    logits, target, valid = random_case(0)
    logits = (3 * logits).to(dtype)
    plain, fused = (logits.clone().requires_grad_() for _ in range(2))
    values = []
    for function, given in ((focal_loss, plain), (fusible_focal_loss, fused)):
        loss = function(given, target, *([valid] if masked else []))
        (3 * loss).backward()
        values.append(loss)
    assert values[1].dtype == torch.float32
    torch.testing.assert_close(values[1], values[0], rtol=1e-6, atol=0)
    assert fused.grad.dtype == dtype and (plain.grad == 0).any()
    torch.testing.assert_close(fused.grad, plain.grad, rtol=1e-5, atol=1e-8)


def test_compiled_it_keeps_its_inputs_alone():
    logits, target, valid = random_case(0)
    kept = []
    compiled = torch.compile(fusible_focal_loss, backend="aot_eager_decomp_partition")
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        loss = compiled(logits.requires_grad_(), target, valid)
    loss.backward()
    given = {value.data_ptr() for value in (logits, target, valid)}
    assert all(value.numel() == 1 or value.data_ptr() in given for value in kept)
    assert {value.data_ptr() for value in kept} >= given
    torch._dynamo.reset()


def test_a_clamped_probability_has_a_cost_and_no_gradient():
    logits = torch.tensor([[[[-50.0, 50.0]]]], requires_grad=True)
    target = torch.tensor([[[[1.0, 0.0]]]])
    loss = focal_loss(logits, target)
    loss.backward()
    assert loss.item() == pytest.approx(-2 * np.log(1e-4) * (1 - 1e-4) ** 2, rel=1e-5)
    assert logits.grad.abs().max() == 0


def test_an_invalid_positive_counts_but_costs_nothing():
    logits, target, _ = random_case(0, positives=2)
    valid = torch.ones_like(target)
    valid.view(-1)[0] = 0
    only = target.clone()
    only.view(-1)[0] = 0
    masked = focal_loss(logits, target, valid)
    single = focal_loss(logits, only, valid)  # the same costs, one positive less
    torch.testing.assert_close(masked * 2, single)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_read_in_float32(dtype):
    logits, target, _ = random_case(1)
    half = logits.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = focal_loss(half, target)
    loss.backward()
    assert loss.dtype == torch.float32
    assert half.grad.dtype == dtype
    assert loss.item() == focal_loss(half.detach().float(), target).item()


def test_inputs_untouched_and_layout_without_effect():
    logits, target, valid = random_case(2)
    before = [tensor.clone() for tensor in (logits, target, valid)]
    contiguous = focal_loss(logits.requires_grad_(), target, valid)
    contiguous.backward()
    for tensor, copy in zip((logits, target, valid), before, strict=True):
        assert torch.equal(tensor, copy)
    last = logits.detach().contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(focal_loss(last, target, valid), contiguous.detach())
