"""The loss of detectors whose corners point to the centre of their box."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from cpools_ext.corners import gather_cells

from ..layers.distribution import distribution_loss, mean_offset
from ..structures import CentripetalMaps, GuidedMaps
from ..targets.center_regions import CenterRegions
from ..targets.centripetal import CentripetalTargets
from .corners import EPSILON, heatmap_loss, mean_over_stacks, offset_loss
from .focal import FocalLoss, focal_loss

# Relative error of half a side below which the cost is quadratic. CentripetalNet has 1, where
# nearly all errors would cost next to nothing.
_BETA = 0.1

_DISTRIBUTION_WEIGHT = 0.25  # of the cross entropies, beside the loss of their means

_LEAST_AREA = 1e-7  # added to what is divided by
_LEAST_SIDE = 1e-3  # of a box, in cells, where a bottom-right corner is left of or above the other


def centripetal_losses(
    outputs: list[CentripetalMaps],
    targets: CentripetalTargets,
    *,
    shift_weight: float = 0.5,
    tl_valid: Tensor | None = None,
    br_valid: Tensor | None = None,
    focal: FocalLoss = focal_loss,
) -> dict[str, Tensor]:
    """Computes the loss terms (CentripetalNet, section 3.1), in float32 under autocast too.

    Args:
        outputs: one entry a stack of the network.
        targets: targets of the same images.
        shift_weight: weight of the shifts of either corner.
        tl_valid, br_valid: [B, C, H, W] or None; 0 where a cell of either heatmap costs nothing.
        focal: computes the loss of a heatmap.

    Returns:
        ``heatmap``, ``shift``, ``offset``, ``box``, ``center``: float32 scalars, weighted and
        averaged over the stacks; the loss is their sum.
    """
    centers = targets.centers
    assert centers is not None
    heatmap, shift, offset, box, center = mean_over_stacks(
        outputs,
        lambda maps: (
            heatmap_loss(maps, targets, tl_valid, br_valid, focal),
            shift_term(maps, targets),
            offset_term(maps, targets),
            box_loss(maps, targets),
            center_loss(maps.center_heatmap, centers),
        ),
    )
    return {
        "heatmap": heatmap,
        "shift": shift_weight * shift,
        "offset": offset,
        "box": box,
        "center": center,
    }


def shift_loss(
    shift: Tensor, target: Tensor, index: Tensor, mask: Tensor, beta: float = _BETA
) -> Tensor:
    """Smooth-L1 loss of the shifts at the corners (CentripetalNet, section 3.1, eq. 2).

    Args:
        shift: [B, 2, H, W], or [B, N, 2] at the cells alone; any floating dtype.
        target: [B, N, 2].
        index: int64 [B, N], cells of the corners.
        mask: bool [B, N], False for padding.
        beta: error below which the cost is quadratic.

    Returns:
        The sum over the batch's cells, divided by their number; a float32 scalar.
    """
    found = gather_cells(shift, index).float()
    cost = F.smooth_l1_loss(found, target, reduction="none", beta=beta)  # [B, N, 2]
    return cost.masked_fill(~mask[:, :, None], 0).sum() / (mask.sum() + EPSILON)


def shift_term(
    maps: CentripetalMaps | GuidedMaps, targets: CentripetalTargets, beta: float = _BETA
) -> Tensor:
    """Computes the loss of the shifts of one stack, both corners together.

    Args:
        maps: maps of the stack.
        targets: targets of the same images.
        beta: as for :func:`shift_loss`.
    """
    tl = shift_loss(maps.tl_shift, targets.shift, targets.tl_index, targets.tl_mask, beta)
    return tl + shift_loss(maps.br_shift, targets.shift, targets.br_index, targets.br_mask, beta)


def offset_term(maps: CentripetalMaps, targets: CentripetalTargets) -> Tensor:
    """Computes the loss of the offsets of one stack, both corners together.

    The distributions' means cost what offsets cost in CornerNet, and the distributions themselves
    are trained as in Generalized Focal Loss (arXiv:2006.04388, eq. 6), with its weight.
    """
    terms = []
    for bins, target, index, mask in (
        (maps.tl_offset_bins, targets.tl_offset, targets.tl_index, targets.tl_mask),
        (maps.br_offset_bins, targets.br_offset, targets.br_index, targets.br_mask),
    ):
        logits = gather_cells(bins, index)
        terms.append(offset_loss(mean_offset(logits), target, index, mask))
        spread = distribution_loss(logits, target, mask).sum() / (mask.sum() + EPSILON)
        terms.append(_DISTRIBUTION_WEIGHT * spread)
    return torch.stack(terms).sum()


def box_loss(maps: CentripetalMaps, targets: CentripetalTargets) -> Tensor:
    """GIoU loss of the boxes between the two corners (Rezatofighi et al. 2019, arXiv:1902.09630).

    The offsets' own loss counts cells, so an error of a small box costs no more than the same one
    of a large box; overlap, by which boxes are judged, does.

    Args:
        maps: maps of one stack, whose offsets are read.
        targets: targets of the same images. The cells at one place in the windows of an object's
            two corners make a box.

    Returns:
        The mean over the boxes that both corners have; a float32 scalar.
    """
    width = maps.tl_heatmap.shape[3]
    mask = targets.tl_mask & targets.br_mask
    tl_cells, br_cells = (_points(index, width) for index in (targets.tl_index, targets.br_index))
    tl = tl_cells + mean_offset(gather_cells(maps.tl_offset_bins, targets.tl_index))
    br = br_cells + mean_offset(gather_cells(maps.br_offset_bins, targets.br_index))
    found = torch.cat((tl, torch.maximum(br, tl.detach() + _LEAST_SIDE)), 2)  # [B, N, 4]
    wanted = torch.cat((tl_cells + targets.tl_offset, br_cells + targets.br_offset), 2)
    unit = (torch.arange(4, device=found.device) > 1).to(found.dtype)  # in the place of padding
    found, wanted = (torch.where(mask[..., None], boxes, unit) for boxes in (found, wanted))
    cost = generalized_iou_loss(found, wanted)  # [B, N]
    return cost.masked_fill(~mask, 0).sum() / (mask.sum() + EPSILON)


def generalized_iou_loss(boxes: Tensor, others: Tensor) -> Tensor:
    """Computes 1 - GIoU of pairs of boxes (Rezatofighi et al. 2019, arXiv:1902.09630, algorithm 2).

    Values and gradients are those of torchvision's ``generalized_box_iou_loss``, which selects the
    boxes that overlap by a mask, for whose sum a GPU waits for the host.

    Args:
        boxes: float32 or float64 [..., 4], xyxy with x0 < x1 and y0 < y1.
        others: [..., 4], the same.

    Returns:
        The costs, [...], from 0 to 2.
    """
    (start, end), (other_start, other_end) = boxes.split(2, -1), others.split(2, -1)
    sides = torch.minimum(end, other_end) - torch.maximum(start, other_start)
    overlap = _area(sides.relu())  # without a gradient where boxes only touch
    hull = _area(torch.maximum(end, other_end) - torch.minimum(start, other_start))
    union = _area(end - start) + _area(other_end - other_start) - overlap
    return 1 - (overlap / (union + _LEAST_AREA) - (hull - union) / (hull + _LEAST_AREA))


def center_loss(heatmap: Tensor, centers: CenterRegions) -> Tensor:
    """Focal loss of the middles of objects (RetinaNet, arXiv:1708.02002, section 3.2).

    Args:
        heatmap: logits [B, C, H, W].
        centers: targets of the same images.

    Returns:
        The sum over the cells that count, divided by the number of those in the middle of an
        object; a float32 scalar.
    """
    cost: Tensor = sigmoid_focal_loss(heatmap.float(), centers.inside.float())
    return (cost * centers.counted).sum() / centers.inside.sum().clamp(min=1)


def _area(sides: Tensor) -> Tensor:
    """Areas [...] of boxes with sides [..., 2]; PyTorch waits for a GPU in the gradient of prod."""
    width, height = sides.unbind(-1)
    return width * height


def _points(index: Tensor, width: int) -> Tensor:
    """(x, y) of cells y * width + x, int64 [B, N]: float32 [B, N, 2]."""
    return torch.stack((index % width, index // width), 2).float()
