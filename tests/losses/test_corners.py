"""Losses of corner detectors: the reference's values and gradients, and what padding may not do."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from core.losses.associative_embedding import associative_embedding_loss
from core.losses.corners import corner_losses, offset_loss
from core.structures import CornerMaps
from core.targets.corners import CornerTargets

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "losses.npz")
META = json.loads(str(GOLDEN["meta"]))
HEADS = ("tl_heat", "br_heat", "tl_tag", "br_tag", "tl_off", "br_off")
PLAIN = [case for case in META if not META[case]["saccade"]]


def golden(name: str) -> torch.Tensor:
    return torch.from_numpy(GOLDEN[name])


def golden_outputs(case: str) -> list[CornerMaps]:
    return [
        CornerMaps(*(golden(f"{case}_{head}_{stack}").requires_grad_() for head in HEADS))
        for stack in range(META[case]["stacks"])
    ]


def golden_targets(case: str, slots: int | None = None) -> CornerTargets:
    """The golden's targets; the first ``slots`` of its 128."""
    return CornerTargets(
        tl_heatmap=golden(f"{case}_gt_tl_heat"),
        br_heatmap=golden(f"{case}_gt_br_heat"),
        tl_index=golden(f"{case}_gt_tl_ind")[:, :slots],
        br_index=golden(f"{case}_gt_br_ind")[:, :slots],
        tl_offset=golden(f"{case}_gt_tl_off")[:, :slots],
        br_offset=golden(f"{case}_gt_br_off")[:, :slots],
        mask=golden(f"{case}_gt_mask")[:, :slots].bool(),
    )


def rows(outputs: list[CornerMaps], targets: CornerTargets, keep: slice):
    maps = [CornerMaps(*(m[keep].detach() for m in stack)) for stack in outputs]
    return maps, CornerTargets(**{name: value[keep] for name, value in vars(targets).items()})


def random_case(counts: tuple[int, ...], seed: int = 0) -> tuple[list[CornerMaps], CornerTargets]:
    """Two stacks, 2 classes, 6 x 7 cells; as many objects an image as ``counts`` says."""
    g = torch.Generator().manual_seed(seed)
    batch, objects = len(counts), max(1, *counts)

    def maps(channels: int) -> torch.Tensor:
        return torch.randn(batch, channels, 6, 7, generator=g)

    targets = CornerTargets(
        tl_heatmap=torch.rand(batch, 2, 6, 7, generator=g),
        br_heatmap=torch.rand(batch, 2, 6, 7, generator=g),
        tl_index=torch.randint(0, 42, (batch, objects), generator=g),
        br_index=torch.randint(0, 42, (batch, objects), generator=g),
        tl_offset=torch.rand(batch, objects, 2, generator=g),
        br_offset=torch.rand(batch, objects, 2, generator=g),
        mask=torch.arange(objects) < torch.tensor(counts)[:, None],
    )
    return [CornerMaps(*(maps(c) for c in (2, 2, 1, 1, 2, 2))) for _ in range(2)], targets


@pytest.mark.parametrize("case", PLAIN)
def test_golden(case):
    outputs, targets, stacks = golden_outputs(case), golden_targets(case), META[case]["stacks"]
    terms = corner_losses(outputs, targets)
    assert list(terms) == ["heatmap", "pull", "push", "offset"]
    parts = {
        "heatmap": GOLDEN[f"{case}_parts_focal"].sum() / stacks,
        "pull": 0.1 * GOLDEN[f"{case}_parts_pull"].sum() / stacks,
        "push": 0.1 * GOLDEN[f"{case}_parts_push"].sum() / stacks,
        "offset": GOLDEN[f"{case}_parts_off"].sum() / stacks,
    }
    for name, term in terms.items():
        # an image of one object leaves four digits of push (golden README)
        rel = 1e-3 if name == "push" and 1 in META[case]["objects"] else 1e-5
        assert term.item() == pytest.approx(parts[name], rel=rel), name
    total = sum(terms.values())
    assert total.item() == pytest.approx(float(GOLDEN[f"{case}_total"]), rel=1e-5)

    total.backward()
    for stack, maps in enumerate(outputs):
        for head, tensor in zip(HEADS, maps, strict=True):
            wanted = golden(f"{case}_grad_{head}_{stack}")
            bound = 1e-5 * wanted.abs().max().item()
            torch.testing.assert_close(tensor.grad, wanted, rtol=0, atol=bound)


@pytest.mark.parametrize("case", META)
def test_golden_parts(case):
    """Pull, push and offset by themselves, of CornerNet-Saccade too."""
    targets = golden_targets(case)
    index = (targets.tl_index, targets.br_index)
    offsets = []
    for stack, maps in enumerate(golden_outputs(case)):
        pull, push = associative_embedding_loss(
            maps.tl_embedding, maps.br_embedding, *index, targets.mask
        )
        rel = 1e-3 if 1 in META[case]["objects"] else 1e-5
        assert pull.item() == pytest.approx(GOLDEN[f"{case}_parts_pull"][stack], rel=1e-5)
        assert push.item() == pytest.approx(GOLDEN[f"{case}_parts_push"][stack], rel=rel)
        offsets += [
            offset_loss(maps.tl_offset, targets.tl_offset, index[0], targets.mask).item(),
            offset_loss(maps.br_offset, targets.br_offset, index[1], targets.mask).item(),
        ]
    assert offsets == pytest.approx(GOLDEN[f"{case}_parts_off"].tolist(), rel=1e-5)


@pytest.mark.parametrize("case", ["mixed", "none"])
def test_as_many_slots_as_objects_give_the_same(case):
    """The reference pads to 128 objects; a batch here to the image with the most."""
    outputs = golden_outputs(case)
    short = corner_losses(outputs, golden_targets(case, max(1, *META[case]["objects"])))
    for name, term in corner_losses(outputs, golden_targets(case)).items():
        torch.testing.assert_close(short[name], term)


def test_padding_has_no_effect_whatever_it_holds():
    outputs, targets = random_case((2, 0, 3))
    padding = ~targets.mask
    rubbish = replace(
        targets,
        tl_index=targets.tl_index.masked_fill(padding, 41),
        tl_offset=targets.tl_offset.masked_fill(padding[..., None], torch.nan),
        br_offset=targets.br_offset.masked_fill(padding[..., None], torch.inf),
    )
    wanted = corner_losses(outputs, targets)
    for name, term in corner_losses(outputs, rubbish).items():
        assert term.item() == wanted[name].item(), name


@pytest.mark.parametrize("counts", [(0,), (1,), (5,), (2, 0, 1, 5)])
def test_pull_and_push_are_sums_over_images(counts):
    """So an image by itself, which the reference could not train, gives its part."""
    outputs, targets = random_case(counts)
    whole = corner_losses(outputs, targets)
    singles = [
        corner_losses(*rows(outputs, targets, slice(row, row + 1))) for row in range(len(counts))
    ]
    for name in ("pull", "push"):
        total = sum(single[name] for single in singles)
        torch.testing.assert_close(whole[name], total, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("counts", [(0,), (0, 0), (1,), (1, 1)])
def test_few_objects_give_finite_terms_and_gradients(counts):
    outputs, targets = random_case(counts)
    outputs = [CornerMaps(*(m.requires_grad_() for m in maps)) for maps in outputs]
    terms = corner_losses(outputs, targets)
    sum(terms.values()).backward()
    for tensor in (*terms.values(), *(m.grad for maps in outputs for m in maps)):
        assert tensor.isfinite().all()
    if sum(counts) == 0:
        assert terms["pull"] == terms["push"] == terms["offset"] == 0
        assert outputs[0].tl_embedding.grad.abs().max() == 0
    else:
        assert terms["pull"] > 0


def test_push_separates_two_objects():
    embedding = torch.zeros(1, 1, 1, 4)
    embedding[0, 0, 0] = torch.tensor([0.0, 0.0, 0.4, 0.4])
    embedding.requires_grad_()
    index = torch.tensor([[0, 2]]), torch.tensor([[1, 3]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    _, push = associative_embedding_loss(embedding, embedding, *index, mask)
    (gradient,) = torch.autograd.grad(push, embedding)
    assert (gradient[..., :2] > 0).all() and (gradient[..., 2:] < 0).all()
    distant = embedding.detach() * 3  # at distances above the margin of 1
    (gradient,) = torch.autograd.grad(
        associative_embedding_loss(distant.requires_grad_(), distant, *index, mask)[1], distant
    )
    assert gradient.abs().max() == 0


def test_weights_scale_their_terms_only():
    outputs, targets = random_case((3, 2))
    plain = corner_losses(outputs, targets)
    weighted = corner_losses(outputs, targets, pull_weight=0.3, push_weight=0.05)
    torch.testing.assert_close(weighted["pull"], 3 * plain["pull"])
    torch.testing.assert_close(weighted["push"], plain["push"] / 2)
    assert weighted["heatmap"] == plain["heatmap"] and weighted["offset"] == plain["offset"]


def test_autocast_computes_in_float32():
    outputs, targets = random_case((3, 2))
    half = [CornerMaps(*(m.bfloat16() for m in maps)) for maps in outputs]
    wanted = corner_losses([CornerMaps(*(m.float() for m in maps)) for maps in half], targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = corner_losses(half, targets)
    for name, term in terms.items():
        assert term.dtype == torch.float32
        assert term.item() == wanted[name].item(), name


def test_inputs_untouched_and_layout_without_effect():
    outputs, targets = random_case((3, 2))
    before = [[m.clone() for m in maps] for maps in outputs]
    wanted = corner_losses(outputs, targets)
    for maps, copies in zip(outputs, before, strict=True):
        assert all(torch.equal(m, copy) for m, copy in zip(maps, copies, strict=True))
    last = [
        CornerMaps(*(m.contiguous(memory_format=torch.channels_last) for m in maps))
        for maps in outputs
    ]
    for name, term in corner_losses(last, targets).items():
        torch.testing.assert_close(term, wanted[name])
