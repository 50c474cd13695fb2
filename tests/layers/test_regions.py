"""Anchors, their labels and the losses of proposals against the worked example's numbers."""

import json

import numpy as np
import pytest
import torch
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign, roi_align

from core.layers.anchors import AnchorGrid, base_anchors
from core.layers.regions import (
    RegionHead,
    RegionPooling,
    RegionPredictor,
    RegionProposals,
    anchors_inside,
    at_least_one_region,
)
from tests.support.model_builders import GOLDEN

SCALES, RATIOS, STRIDE = (8, 16, 32), (0.5, 1, 2), 16
XYXY = [1, 0, 3, 2]  # of y x y x, and of dy dx dh dw


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "faster_rcnn_walkthrough.npz")


@pytest.fixture(scope="module")
def printed():
    return json.loads((GOLDEN / "faster_rcnn_walkthrough.json").read_text())


@pytest.fixture(scope="module")
def target(printed):
    boxes = torch.tensor(printed["input"]["gt_boxes"]["value"]).float()[:, XYXY]
    return {"boxes": boxes, "size": tuple(printed["input"]["image_shape"]["value"][2:])}


@pytest.fixture(scope="module")
def anchors():
    """Anchors of an image of 800 x 800 pixels, as a network gets them."""
    (boxes,) = grid(torch.zeros(1, 3, 800, 800), torch.zeros(1, 1, 50, 50))
    return boxes


def grid(images, map_):
    image_list = ImageList(images, [tuple(images.shape[2:])] * len(images))
    return AnchorGrid(STRIDE, SCALES, RATIOS)(image_list, [map_])


def proposals(channels=4):
    return RegionProposals(
        AnchorGrid(STRIDE, SCALES, RATIOS),
        RegionHead(channels, 9),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 12000, "testing": 6000},
        post_nms_top_n={"training": 2000, "testing": 300},
        nms_thresh=0.7,
    )


def test_base_anchors(golden, printed):
    boxes = base_anchors(STRIDE, SCALES, RATIOS).numpy()
    np.testing.assert_allclose(boxes, golden["base_anchors"][:, XYXY], atol=1e-4)
    rounded = printed["torchvision"]["value"]["base_anchors_xyxy"]
    assert np.abs(boxes - STRIDE / 2 - rounded).max() > 0.25  # torchvision's are not the same


def test_the_grid_of_anchors(golden, anchors):
    by_column = anchors.numpy()[golden["to_rowmajor"]][:, XYXY]
    assert len(by_column) == 22500
    np.testing.assert_allclose(by_column[:18], golden["anchors_first"], atol=1e-4)
    np.testing.assert_allclose(by_column[-18:], golden["anchors_last"], atol=1e-4)


def test_anchors_inside(golden, anchors, target):
    inside = anchors_inside(anchors, target["size"])
    by_column = inside.numpy()[golden["to_rowmajor"]]
    np.testing.assert_array_equal(np.flatnonzero(by_column), golden["inside_index"])
    assert int(inside.sum()) == 8940


def test_an_anchor_on_the_edge_is_inside():
    boxes = torch.tensor([[0, 0, 10, 20.0], [-0.1, 0, 10, 20], [0, 0, 10.1, 20], [0, 0, 10, 20.1]])
    assert anchors_inside(boxes, (20, 10)).tolist() == [True, False, False, False]


def test_the_stride_is_not_guessed():
    """A map of 2 cells on 47 pixels has the stride 16, not 23."""
    (boxes,) = grid(torch.zeros(1, 3, 47, 100), torch.zeros(1, 1, 2, 6))
    centers = (boxes[3::9, :2] + boxes[3::9, 2:]) / 2  # of the squares
    assert centers[:, 1].unique().tolist() == [8, 24]
    assert centers[:, 0].unique().tolist() == [8, 24, 40, 56, 72, 88]


def test_labels_and_targets(golden, anchors, target):
    part = proposals()
    (labels,), (matched,) = part.assign_targets_to_anchors([anchors], [target])
    np.testing.assert_array_equal(labels.numpy(), golden["labels_rowmajor"])
    assert torch.bincount(
        (labels[anchors_inside(anchors, target["size"])] + 1).long()
    ).tolist() == [
        1232,
        7690,
        18,
    ]
    (codes,) = part.box_coder.encode([matched], [anchors])
    assert codes.isfinite().all()
    rows = golden["pos_anchor_index_rowmajor"]
    np.testing.assert_allclose(codes[rows].numpy(), golden["pos_targets"][:, XYXY], atol=1e-5)


def test_labels_image_by_image(anchors, target):
    nothing = {"boxes": torch.zeros(0, 4), "size": (800, 800)}
    part = proposals()
    labels, matched = part.assign_targets_to_anchors([anchors, anchors], [nothing, target])
    assert set(labels[0].unique().tolist()) == {-1, 0}
    (alone,), (boxes,) = part.assign_targets_to_anchors([anchors], [target])
    assert torch.equal(labels[1], alone) and torch.equal(matched[1], boxes)


def test_an_object_that_no_anchor_touches_is_not_trained(anchors, target):
    """torchvision's matcher would take every anchor for one of its best."""
    corner = torch.tensor([[0, 0, 2, 2.0]])
    both = {"boxes": torch.cat([corner, target["boxes"]]), "size": (800, 800)}
    part = proposals()
    (expected,), _ = part.assign_targets_to_anchors([anchors], [target])
    (labels,), _ = part.assign_targets_to_anchors([anchors], [both])
    assert torch.equal(labels, expected)
    (labels,), _ = part.assign_targets_to_anchors([anchors], [{**both, "boxes": corner}])
    assert set(labels.unique().tolist()) == {-1, 0}


def test_anchors_outside_are_removed_before_the_match_not_after(anchors):
    """The object's best anchor leaves the image; it is matched with the best of those inside."""
    object_ = {"boxes": torch.tensor([[0, 300, 60, 420.0]]), "size": (800, 800)}
    (labels,), _ = proposals().assign_targets_to_anchors([anchors], [object_])
    assert int((labels == 1).sum()) == 1
    (after,), _ = super(RegionProposals, proposals()).assign_targets_to_anchors(
        [anchors], [object_]
    )
    assert not (after[anchors_inside(anchors, (800, 800))] == 1).any()


def test_where_no_anchor_fits_all_are_trained(target):
    (boxes,) = grid(torch.zeros(1, 3, 48, 800), torch.zeros(1, 1, 3, 50))
    object_ = {"boxes": torch.tensor([[100, 4, 200, 44.0]]), "size": (48, 800)}
    (labels,), _ = proposals().assign_targets_to_anchors([boxes], [object_])
    assert not anchors_inside(boxes, (48, 800)).any()
    assert (labels == 1).any() and (labels == 0).any()


def test_losses_of_a_network_that_says_nothing(golden, target):
    """All 18 positives are sampled, so the loss does not depend on the draw."""
    part = proposals()
    for parameter in part.parameters():
        torch.nn.init.zeros_(parameter)
    image_list = ImageList(torch.zeros(1, 3, 800, 800), [(800, 800)])
    boxes, losses = part(image_list, {"map": torch.randn(1, 4, 50, 50)}, [target])
    assert losses["loss_objectness"].item() == pytest.approx(np.log(2))
    codes, beta = np.abs(golden["pos_targets"]), 1 / 9
    smooth = np.where(codes < beta, codes**2 / (2 * beta), codes - beta / 2)
    assert losses["loss_rpn_box_reg"].item() == pytest.approx(smooth.sum() / 256, rel=1e-5)
    assert len(boxes[0]) <= 2000


def test_samples_are_of_the_wanted_number(printed, golden):
    labels = torch.from_numpy(golden["labels_rowmajor"]).float()
    (positive,), (negative,) = proposals().fg_bg_sampler([labels])
    sampled = printed["labels"]["after_sampling"]["value"]
    assert (int(positive.sum()), int(negative.sum())) == (sampled["positive"], sampled["negative"])


@pytest.mark.parametrize("size", [(47, 63), (600, 1000), (800, 800)])
def test_pooling_does_not_guess_the_stride(size):
    """torchvision's takes it from the image and the map: wrong for the first of these sizes."""
    map_ = torch.randn(1, 2, size[0] // 16, size[1] // 16)
    boxes = torch.tensor([[0, 0, 20, 30.0], [8, 8, 40, 41]])
    expected = roi_align(map_, [boxes], 7, 1 / 16, 2)
    pooled = RegionPooling("map", 16, 7, 2)({"map": map_}, [boxes], [size])
    torch.testing.assert_close(pooled, expected)
    theirs = MultiScaleRoIAlign(["map"], 7, 2)({"map": map_}, [boxes], [size])
    assert torch.allclose(theirs, expected) == (size != (47, 63))


def test_an_image_without_regions_is_one():
    regions = [torch.zeros(0, 4), torch.ones(2, 4)]
    first, second = at_least_one_region(regions, [(30, 40), (50, 60)])
    assert first.tolist() == [[0, 0, 40, 30]]
    assert second is regions[1]


def test_heads_give_float32_in_bfloat16():
    """Coordinates would be rounded to multiples of four pixels."""
    with torch.autocast("cpu", torch.bfloat16):
        outputs = [
            *RegionHead(4, 9)([torch.randn(1, 4, 5, 5)]),
            RegionPredictor(4, 3)(torch.randn(2, 4)),
        ]
    assert all(value.dtype == torch.float32 for values in outputs for value in values)
