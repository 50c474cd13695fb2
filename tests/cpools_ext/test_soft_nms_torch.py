"""Soft-NMS as PyTorch sees it: opcheck, compile, export, vmap, gradients, devices, errors."""

import pytest
import torch

from cpools_ext.soft_nms import METHODS, soft_nms
from tests.cpools_ext.test_soft_nms import random_boxes, skip_without_binary


def arguments(count: int = 12) -> tuple:
    boxes, labels = torch.from_numpy(random_boxes(count, 5)), torch.arange(count) % 3
    return boxes, labels, METHODS["exp_soft_nms"], 0.5, 0.7, 0.2, 8.0, True


@pytest.mark.parametrize("count", [12, 0])
def test_opcheck(count):
    torch.library.opcheck(torch.ops.cpools_ext.soft_nms.default, arguments(count))


def test_compiles_whole():
    boxes, labels, *_ = arguments()

    def run(boxes, labels):
        rows, labels, kept = soft_nms(boxes * 2, labels, method="nms")
        return rows[:, :4] + kept[:, None], labels

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(boxes, labels), run(boxes, labels))


class Suppress(torch.nn.Module):
    def forward(self, boxes, labels):
        return soft_nms(boxes, labels, method="nms")


def test_exports_for_any_number_of_boxes():
    boxes, labels, *_ = arguments()
    count = torch.export.Dim("count", min=2)
    program = torch.export.export(
        Suppress(), (boxes, labels), dynamic_shapes=({0: count}, {0: count})
    )
    ours, wanted = (run(boxes[:5], labels[:5]) for run in (program.module(), Suppress()))
    assert all(torch.equal(one, other) for one, other in zip(ours, wanted, strict=True))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_takes_one_image_after_another():
    boxes = torch.from_numpy(random_boxes(12, 6)).view(3, 4, 7)
    labels = torch.zeros(3, 4, dtype=torch.int64)
    ours = torch.func.vmap(Suppress())(boxes, labels)
    for number in range(3):
        wanted = Suppress()(boxes[number], labels[number])
        assert all(torch.equal(one[number], other) for one, other in zip(ours, wanted, strict=True))


def test_results_have_no_gradient():
    boxes, labels, *_ = arguments()
    rows, _, _ = soft_nms(boxes.requires_grad_(), labels, method="nms")
    assert not rows.requires_grad


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_goes_through_the_cpu():
    boxes, labels, *_ = arguments()
    wanted = soft_nms(boxes, labels, method="linear_soft_nms")
    for ours, result in zip(
        soft_nms(boxes.cuda(), labels.cuda(), method="linear_soft_nms"), wanted, strict=True
    ):
        assert ours.is_cuda and torch.equal(ours.cpu(), result)


def test_errors():
    boxes, labels, *_ = arguments()
    with pytest.raises(ValueError, match="linear_soft_nms"):
        soft_nms(boxes, labels, method="soft")
    for wrong in (boxes.double(), boxes[:, :5], boxes[0]):
        with pytest.raises(ValueError, match=r"float32 \[n, 7\]"):
            soft_nms(wrong, labels, method="nms")
    for wrong_labels in (labels.int(), labels[:5], labels[:, None]):
        with pytest.raises(ValueError, match="int64"):
            soft_nms(boxes, wrong_labels, method="nms")


def test_the_native_operator_checks_its_inputs():
    skip_without_binary()
    boxes, labels, *settings = arguments()
    for wrong in (
        (boxes[:, :5], labels, *settings),
        (boxes.double(), labels, *settings),
        (boxes[0], labels, *settings),
        (boxes, labels[:5], *settings),
        (boxes, labels.int(), *settings),
        (boxes, labels, 3, *settings[1:]),
    ):
        with pytest.raises(ValueError, match="soft-NMS"):
            torch.ops.cpools_ext.soft_nms(*wrong)
